package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestEveryCommandTeaches(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for _, c := range commands() {
		for _, args := range [][]string{{c.name, "-h"}, {c.name, "--help"}, {"help", c.name}} {
			b.want(0, "msg "+c.name+" [options]", "", args...)
			if !regexp.MustCompile(`\n  .*msg ` + c.name + ` `).MatchString(b.stdout.String()) {
				t.Errorf("the help of %s shows no example", c.name)
			}
		}
		if !strings.Contains(b.stdout.String(), "Options:") {
			t.Errorf("the help of %s lists no options", c.name)
		}
	}
	for _, args := range [][]string{{"-h"}, {"--help"}, {"help"}} {
		b.want(0, "ID_TOKEN", "", args...)
		for _, c := range commands() {
			if !strings.Contains(b.stdout.String(), c.name) {
				t.Errorf("msg %s does not name %s", args[0], c.name)
			}
		}
	}
	b.want(2, "", "msg COMMAND")
	b.want(2, "", `no command "connect"`, "connect")
}

func TestOptionsStandAnywhere(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args       []string
		positional []string
		wait       float64
		json       bool
	}{
		{[]string{"text", "-w", "20"}, []string{"text"}, 20, false},
		{[]string{"-w", "20", "text"}, []string{"text"}, 20, false},
		{[]string{"two", "-w=1.5", "words", "-json"}, []string{"two", "words"}, 1.5, true},
		{[]string{"-json", "text", "--wait", "3"}, []string{"text"}, 3, true},
		{[]string{"-w", "3", "--", "-json", "-w"}, []string{"-json", "-w"}, 3, false},
		{[]string{"a", "--", "--", "b"}, []string{"a", "--", "b"}, 10, false},
		{[]string{"-", "-w", "0"}, []string{"-"}, 0, false},
		{[]string{""}, []string{""}, 10, false},
		{nil, nil, 10, false},
	} {
		f := newFlags(command{name: "x"})
		var wait float64
		f.float64Var(&wait, "w", "wait", 10, "")
		asJSON := f.Bool("json", false, "")
		got, err := f.parse(c.args)
		if err != nil || !slices.Equal(got, c.positional) || wait != c.wait || *asJSON != c.json {
			t.Errorf("%q: %q, wait %v, json %v, error %v", c.args, got, wait, *asJSON, err)
		}
	}
	b := newBench(t, nil)
	b.want(2, "", "no option -x", "send-message", "text", "-x")
	b.want(2, "", "put -- before", "send-message", "-5 degrees")
	b.want(2, "", "needs an argument", "send-message", "text", "-w")
	b.want(2, "", "invalid value", "send-message", "text", "-w", "long")
	b.want(2, "", "between 0 and 900", "send-message", "text", "-w", "NaN")
}
