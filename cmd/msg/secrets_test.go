package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"restante/internal/tokens"
)

func readSecrets(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			t.Fatal(err)
		}
		found[name] = string(text)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	return found
}

func TestSecretsAreMadeOnce(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	dir := filepath.Join(t.TempDir(), "secrets")
	b.want(0, "", "postgres/password", "secrets", "-dir", dir)
	first := readSecrets(t, dir)
	if want := []string{
		"demo/password", "dex/password-hash", "gateway/database-url", "gateway/token-keys.json", "grafana/password", "postgres/password",
	}; !slices.Equal(slices.Sorted(maps.Keys(first)), want) {
		t.Fatalf("files %v", slices.Sorted(maps.Keys(first)))
	}
	if want := "postgres://restante:" + first["postgres/password"] + "@postgres:5432/restante"; first["gateway/database-url"] != want {
		t.Errorf("database URL %q, want %q", first["gateway/database-url"], want)
	}
	if err := bcrypt.CompareHashAndPassword([]byte(first["dex/password-hash"]), []byte(first["demo/password"])); err != nil {
		t.Error(err)
	}
	if _, err := tokens.ReadFile(filepath.Join(dir, "gateway/token-keys.json")); err != nil {
		t.Error(err)
	}
	for name, text := range first {
		if said := b.stdout.String() + b.stderr.String(); strings.Contains(said, text) {
			t.Errorf("%s is printed", name)
		}
	}
	b.want(0, "", "", "secrets", "-dir", dir)
	if again := readSecrets(t, dir); !maps.Equal(again, first) {
		t.Error("a second run changed something")
	}
	// Another installation has other secrets.
	other := filepath.Join(t.TempDir(), "secrets")
	b.want(0, "", "", "secrets", "-dir", other)
	for name, text := range readSecrets(t, other) {
		if first[name] == text {
			t.Errorf("%s is the same in two installations", name)
		}
	}
}

func TestSecretsOfOnesOwnAreUsed(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "postgres"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "postgres", "password"), []byte("p@ss/word\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.want(0, "", "", "secrets", "-dir", dir, "-database", "postgresql://app@db.internal/log?sslmode=verify-full")
	if got := readSecrets(t, dir)["gateway/database-url"]; got != "postgresql://app:p%40ss%2Fword@db.internal/log?sslmode=verify-full" {
		t.Errorf("database URL %q", got)
	}
	b.want(2, "", "must not have a password", "secrets", "-dir", dir, "-database", "postgres://a:b@c/d")
	b.want(2, "", "must be like", "secrets", "-dir", dir, "-database", "db.internal")
	b.want(2, "", "name the directory", "secrets")
	b.want(2, "", "unexpected argument", "secrets", "-dir", dir, "x")
	b.want(1, "", "secrets: mkdir", "secrets", "-dir", filepath.Join(dir, "postgres", "password"))
}
