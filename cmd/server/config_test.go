package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

const readme = "../../README.md"

// settingsTable is the README's table of settings, made from the flags.
func settingsTable() string {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	var c config
	var b strings.Builder
	b.WriteString("| flag | environment | default | |\n|---|---|---|---|\n")
	for _, s := range c.define(fs) {
		f := fs.Lookup(s.name)
		_, meaning := flag.UnquoteUsage(f)
		env, value := "", ""
		if s.env != "" {
			env = "`" + s.env + "`"
		}
		if f.DefValue != "" {
			value = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(&b, "| `-%s` | %s | %s | %s |\n", s.name, env, value, strings.ReplaceAll(meaning, "|", `\|`))
	}
	return b.String()
}

// UPDATE_README=1 go test ./cmd/server writes the table instead of comparing it.
func TestReadmeHasEverySetting(t *testing.T) {
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)(<!-- settings:[^\n]*-->\n).*(<!-- /settings -->)`)
	want := table.ReplaceAll(text, []byte("${1}\n"+settingsTable()+"\n${2}"))
	if bytes.Equal(text, want) {
		return
	}
	if os.Getenv("UPDATE_README") == "" {
		t.Fatal("the README's table of settings is not that of the flags: UPDATE_README=1 go test ./cmd/server writes it")
	}
	if err := os.WriteFile(readme, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestConfigIsCheckedWhole(t *testing.T) {
	t.Parallel()
	none := func(string) string { return "" }
	for _, test := range []struct {
		args []string
		env  map[string]string
		want []string // in the error; none: no error
	}{
		{nil, nil, []string{"-database-url", "-oidc-issuer", "-token-keyring"}},
		{[]string{"-dev"}, nil, nil},
		{[]string{"-dev", "-lease", "1ms", "-window-bytes", "0"}, nil, []string{"-lease is 1ms", "-window-bytes is 0"}},
		{[]string{"-dev", "-sweep", "two"}, nil, []string{"sweep"}},
		{[]string{"-dev", "extra"}, nil, []string{`unexpected argument "extra"`}},
		{[]string{"-dev"}, map[string]string{"RESTANTE_LEASE": "soon"}, []string{"RESTANTE_LEASE"}},
		{nil, map[string]string{"DATABASE_URL": "postgres:///x", "RESTANTE_OIDC_ISSUER": "https://id.example", "RESTANTE_TOKEN_KEYS": "{}"}, nil},
		{[]string{"-oidc-issuer", "ftp://id.example"}, map[string]string{"DATABASE_URL": "postgres:///x", "RESTANTE_TOKEN_KEYS": "{}"}, []string{"not an http or https URL"}},
	} {
		getenv := none
		if test.env != nil {
			getenv = func(name string) string { return test.env[name] }
		}
		_, err := parseConfig(test.args, getenv, os.Stderr)
		if (err == nil) != (len(test.want) == 0) {
			t.Errorf("%v %v: %v", test.args, test.env, err)
			continue
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%v: error %q does not mention %q", test.args, err, want)
			}
		}
	}
}

func TestFlagWinsOverEnvironment(t *testing.T) {
	t.Parallel()
	c, err := parseConfig([]string{"-dev", "-sweep", "3s"}, func(name string) string {
		return map[string]string{"RESTANTE_SWEEP": "9s", "RESTANTE_LEASE": "20s"}[name]
	}, os.Stderr)
	if err != nil || c.sweep != 3*time.Second || c.lease != 20*time.Second {
		t.Errorf("sweep %v, lease %v, %v", c.sweep, c.lease, err)
	}
}

// A rolling restart failed 2 of 10,039 posts without a delay, and none with 2 s.
func TestDrainDelay(t *testing.T) {
	t.Parallel()
	production := []string{"-database-url", "postgres://", "-oidc-issuer", "https://id.example", "-token-keys", "x"}
	for _, test := range []struct {
		args []string
		env  string
		want time.Duration
	}{
		{production, "", 2 * time.Second},
		{append([]string{"-drain-delay", "0"}, production...), "", 0},
		{[]string{"-dev"}, "", 0},
		{[]string{"-dev", "-drain-delay", "1s"}, "", time.Second},
		{[]string{"-dev"}, "3s", 3 * time.Second},
	} {
		c, err := parseConfig(test.args, func(name string) string {
			return map[string]string{"RESTANTE_DRAIN_DELAY": test.env}[name]
		}, os.Stderr)
		if err != nil || c.drainDelay != test.want {
			t.Errorf("%v, environment %q: %v, %v; want %v", test.args, test.env, c.drainDelay, err, test.want)
		}
	}
}

func TestReplicaIDIsNewAtEveryStart(t *testing.T) {
	t.Parallel()
	if a, b := newReplicaID(), newReplicaID(); a == b || len(a) > 60 {
		t.Errorf("ids %q and %q", a, b)
	}
}
