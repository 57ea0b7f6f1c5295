package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"restante/internal/publishers"
	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func TestKeys(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	b := newBench(t, nil)
	b.env["DATABASE_URL"] = db.URL
	b.want(0, "", "There are no keys", "keys", "list")
	b.want(0, "rk_", "It is shown this one time", "keys", "create", "-name", "billing", "-scopes", "read, publish", "-user-prefix", "shop-")
	key := strings.TrimSpace(b.stdout.String())
	if strings.Contains(b.stderr.String(), key) {
		t.Error("the key is on standard error too")
	}
	p, err := publishers.New(db.Pool, nil).Authenticate(t.Context(), key)
	if err != nil || p.Name != "billing" || p.UserPrefix != "shop-" || strings.Join(p.Scopes, ",") != "publish,read" {
		t.Errorf("the key is that of %+v, %v", p, err)
	}
	b.want(0, p.KeyID, "", "keys", "list")
	if out := b.stdout.String(); !strings.Contains(out, "in force") || !strings.Contains(out, "shop-…") || strings.Contains(out, key) {
		t.Errorf("list:\n%s", out)
	}
	b.want(0, "", "is revoked", "keys", "revoke", key)
	b.want(0, "revoked 2", "", "keys", "list")
	if _, err := publishers.New(db.Pool, nil).Authenticate(t.Context(), key); err == nil {
		t.Error("the key works after it was revoked")
	}

	b.want(0, "rk_", "", "keys", "create", "-name", "bulk", "-rate", "500", "-byte-rate", "1MB")
	bulk := strings.TrimSpace(b.stdout.String())
	b.want(0, "500         1000000", "", "keys", "list")
	b.want(0, "", "unlimited messages", "keys", "rate", bulk, "-rate", "0")
	b.want(0, "unlimited   1000000", "", "keys", "list")
	b.want(0, "", "default messages and 2048 bytes", "keys", "rate", bulk, "-rate", "default", "-byte-rate", "2KiB")
	b.want(1, "", "no key with this id", "keys", "rate", "0000000000000000", "-rate", "5")
	b.want(2, "", "is not a rate", "keys", "create", "-name", "x", "-rate", "-5")
	b.want(2, "", "is not a rate", "keys", "create", "-name", "x", "-byte-rate", "1XB")
	b.want(2, "", "say which rate", "keys", "rate", bulk)
	b.want(2, "", "go with create", "keys", "list", "-rate", "5")

	b.want(1, "", "no key with this id", "keys", "revoke", "0000000000000000")
	b.want(2, "", "choose publish, read", "keys", "create", "-name", "x", "-scopes", "admin")
	b.want(2, "", "give the key a name", "keys", "create")
	b.want(2, "", "say what to do", "keys")
	b.want(2, "", "there is no keys delete", "keys", "delete")
	b.want(2, "", "needs the id of one key", "keys", "revoke")
}

func TestKeysCreateKeepsAGoodKeyInItsFile(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	b := newBench(t, nil)
	dir := t.TempDir()
	b.env["DATABASE_URL_FILE"] = filepath.Join(dir, "database-url")
	b.want(1, "", "DATABASE_URL_FILE: open", "keys", "list")
	if err := os.WriteFile(b.env["DATABASE_URL_FILE"], []byte(db.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "api-key")
	create := func() string {
		t.Helper()
		b.want(0, "", "", "keys", "create", "-name", "sample", "-file", file)
		if b.stdout.String() != "" {
			t.Error("the key is printed too")
		}
		key, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(key)
	}
	first := create()
	if again := create(); again != first {
		t.Error("a good key was replaced")
	}
	b.want(0, "", "is revoked", "keys", "revoke", first)
	second := create()
	if second == first {
		t.Error("a revoked key was kept")
	}
	if p, err := publishers.New(db.Pool, nil).Authenticate(t.Context(), second); err != nil || p.Name != "sample" {
		t.Errorf("the key is that of %+v, %v", p, err)
	}
	b.want(2, "", "-file goes with create", "keys", "list", "-file", file)
}

func TestKeysWithoutADatabase(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.want(1, "", "DATABASE_URL is not set", "keys", "list")
	b.env["DATABASE_URL"] = "postgres://u:secret@127.0.0.1:1/none?connect_timeout=2"
	b.want(1, "", "does not answer", "keys", "list")
	if strings.Contains(b.stderr.String(), "secret") {
		t.Error("the database's password is shown")
	}
	b.env["DATABASE_URL"] = "postgres://u:se cret@%zz"
	b.want(2, "", "not a PostgreSQL URL", "keys", "list")
	// The development gateway's own database is found by itself.
	b.env["DATABASE_URL"] = ""
	empty := testdb.Empty(t)
	if err := os.WriteFile(filepath.Join(b.stateDir, "database-url"), []byte(empty.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.want(1, "", "no tables of the gateway yet", "keys", "list")
}
