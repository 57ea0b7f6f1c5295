package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeyringRotation(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	file := filepath.Join(t.TempDir(), "keyring.json")
	b.want(1, "", "To make one: msg keyring new", "keyring", "list", "-file", file)
	b.want(0, "k", "has one key", "keyring", "new", "-file", file)
	first := strings.TrimSpace(b.stdout.String())
	b.want(1, "", "exists already", "keyring", "new", "-file", file)
	b.want(0, "k", "keyring promote", "keyring", "add", "-file", file)
	second := strings.TrimSpace(b.stdout.String())
	b.want(0, first+"\tseals and opens\n"+second+"\topens\n", "", "keyring", "list", "-file", file)
	b.want(0, "", "", "keyring", "promote", second, "-file", file)
	b.want(0, second+"\tseals and opens\n"+first+"\topens\n", "", "keyring", "list", "-file", file)
	b.want(0, "", "", "keyring", "remove", "-file", file, first)
	b.want(1, "", "only key", "keyring", "remove", "-file", file, second)
	b.want(1, "", "no key", "keyring", "remove", "-file", file, "k-unknown")

	b.want(2, "", "name the keyring", "keyring", "list")
	b.want(2, "", "say what to do", "keyring", "-file", file)
	b.want(2, "", "needs the id", "keyring", "promote", "-file", file)
	b.want(2, "", "there is no keyring rotate", "keyring", "rotate", "-file", file)

	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}
