package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Help that was asked for is no error: it can be piped.
func TestHelpGoesToStandardOutput(t *testing.T) {
	t.Parallel()
	var out, errs strings.Builder
	code := run(t.Context(), []string{"-h"}, func(string) string { return "" }, &out, &errs)
	if code != exitOK || errs.Len() > 0 {
		t.Errorf("exit code %d, standard error %q", code, errs.String())
	}
	for _, want := range []string{"server -dev", "RESTANTE_", "-deliver-delay"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("nothing is said of %s", want)
		}
	}
}

// A database of somebody's own has a password of somebody's own.
func TestDevelopmentShowsNoPassword(t *testing.T) {
	t.Parallel()
	for databaseURL, want := range map[string]string{
		"postgres://ada:Sesame@db.internal:5432/x?sslmode=require": "postgres://ada:xxxxx@db.internal:5432/x?sslmode=require",
		"postgresql://db.internal/x?password=Sesame&user=ada":      "postgresql://db.internal/x?password=xxxxx&user=ada",
		"host=db.internal user=ada password=Sesame":                "the one that was given",
		"postgres://ada@/x?host=%2Frun":                            "postgres://ada@/x?host=%2Frun",
	} {
		var out strings.Builder
		d := &dev{out: &out, dir: t.TempDir()}
		d.cfg.databaseURL, d.cfg.dev.dir = databaseURL, d.dir
		for _, l := range []*net.Listener{&d.listeners.public, &d.listeners.admin, &d.listeners.issuer, &d.listeners.sample} {
			var err error
			if *l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
				t.Fatal(err)
			}
		}
		defer d.closeListeners()
		if err := d.announce(); err != nil {
			t.Fatal(err)
		}
		kept, err := os.ReadFile(filepath.Join(d.dir, "running"))
		if err != nil {
			t.Fatal(err)
		}
		for where, text := range map[string]string{"standard output": out.String(), "the state": string(kept)} {
			if strings.Contains(text, "Sesame") || !strings.Contains(text, want+"\n") {
				t.Errorf("%s in %s: %s", databaseURL, where, text)
			}
		}
	}
}
