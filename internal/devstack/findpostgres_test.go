package devstack

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// fakeBinaries makes a directory that looks like a PostgreSQL of some version.
func fakeBinaries(t *testing.T, version string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFirstUsable(t *testing.T) {
	t.Parallel()
	old, good, newer := fakeBinaries(t, "13.9"), fakeBinaries(t, "16.2 (Debian 16.2-1)"), fakeBinaries(t, "18beta1")
	clientOnly := fakeBinaries(t, "17.0")
	if err := os.Remove(filepath.Join(clientOnly, "initdb")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		dirs   []string
		wanted int
		want   string
	}{
		{"the first that will do", []string{"/nonexistent", clientOnly, old, good, newer}, 0, good},
		{"a given version", []string{old, good, newer}, 18, newer},
		{"a given version that is missing", []string{good, newer}, 17, ""},
		{"only old ones", []string{old}, 0, ""},
		{"an old one, even when asked for", []string{old}, 13, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			if got := firstUsable(t.Context(), test.dirs, test.wanted, &out); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			if said := strings.Contains(out.String(), "passing over PostgreSQL 13"); said != slices.Contains(test.dirs, old) {
				t.Errorf("said %q", out.String())
			}
		})
	}
}

func TestFindPostgresChosenByEnvironment(t *testing.T) {
	good := fakeBinaries(t, "17.1")
	t.Setenv(PostgresBinEnv, good)
	if got, err := FindPostgres(t.Context(), false, io.Discard); got != good || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, good)
	}
	// A wrong choice must not be replaced by a guess in silence.
	for _, wrong := range []string{"/nonexistent", fakeBinaries(t, "9.6")} {
		t.Setenv(PostgresBinEnv, wrong)
		if got, err := FindPostgres(t.Context(), true, io.Discard); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("with %s: got %q, %v; want an error that names it", wrong, got, err)
		}
	}
}

func TestFindPostgresOnPath(t *testing.T) {
	t.Setenv(PostgresBinEnv, "")
	good := fakeBinaries(t, "17.1")
	t.Setenv("PATH", good)
	if got, err := FindPostgres(t.Context(), false, io.Discard); got != good || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, good)
	}
}

func TestNewestFirst(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for _, version := range []string{"9", "14", "18", "15"} {
		if err := os.MkdirAll(filepath.Join(root, version, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, dir := range newestFirst(root + "/*/bin") {
		got = append(got, filepath.Base(filepath.Dir(dir)))
	}
	if want := []string{"18", "15", "14", "9"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestInstallAdviceNamesEverySystem(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("%w. %s", ErrNoPostgres, installAdvice)
	for _, want := range []string{"apt-get install postgresql", "dnf install postgresql-server", "brew install", PostgresBinEnv, "DATABASE_URL"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not mention %q", want)
		}
	}
	if !errors.Is(err, ErrNoPostgres) {
		t.Error("the error is not ErrNoPostgres")
	}
}

func TestLastLines(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		text, want string
		n          int
	}{
		{"a\nb\nc\n", "b\nc", 2},
		{"a\nb", "a\nb", 5},
		{"", "", 3},
	} {
		if got := string(lastLines([]byte(test.text), test.n)); got != test.want {
			t.Errorf("lastLines(%q, %d) = %q, want %q", test.text, test.n, got, test.want)
		}
	}
}
