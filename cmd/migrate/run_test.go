package main

import (
	"strings"
	"testing"

	"restante/internal/testdb"
	"restante/migrations"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// invoke runs the program as main does.
func invoke(t *testing.T, databaseURL string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, err strings.Builder
	getenv := func(name string) string {
		if name == "DATABASE_URL" {
			return databaseURL
		}
		return ""
	}
	code = run(t.Context(), args, getenv, &out, &err)
	return code, out.String(), err.String()
}

func TestUpAndStatus(t *testing.T) {
	t.Parallel()
	db := testdb.Empty(t)
	code, stdout, stderr := invoke(t, db.URL, "status")
	if code != exitBehind || !strings.Contains(stdout, "behind: run restante-migrate up") || stderr != "" {
		t.Errorf("status of an empty database: %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = invoke(t, db.URL, "up")
	if code != exitOK || !strings.Contains(stdout, "migrated: river 0 to 8, log 0 to ") || !strings.Contains(stderr, "schema=log version=1") {
		t.Errorf("up: %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, stderr = invoke(t, "", "up", "-database-url", db.URL)
	if code != exitOK || !strings.Contains(stdout, "nothing to do") || stderr != "" {
		t.Errorf("up again: %d\n%s%s", code, stdout, stderr)
	}
	code, stdout, _ = invoke(t, db.URL, "status")
	if code != exitOK || strings.Count(stdout, " ok\n") != 2 || !strings.Contains(stdout, "epoch ") {
		t.Errorf("status afterwards: %d\n%s", code, stdout)
	}
	if _, err := db.Pool.Exec(t.Context(), "INSERT INTO restante_schema (version_id, is_applied) VALUES (999, true)"); err != nil {
		t.Fatal(err)
	}
	code, stdout, _ = invoke(t, db.URL, "status")
	if code != exitBehind || !strings.Contains(stdout, "newer than this release") {
		t.Errorf("status of a newer schema: %d\n%s", code, stdout)
	}
	code, _, stderr = invoke(t, db.URL, "up")
	if code != exitFailed || !strings.Contains(stderr, "newer than this binary") {
		t.Errorf("up of a newer schema: %d\n%s", code, stderr)
	}
}

func TestNewEpoch(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	before, err := migrations.Read(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	code, _, stderr := invoke(t, db.URL, "new-epoch")
	if code != exitUsage || !strings.Contains(stderr, "new-epoch -yes") {
		t.Errorf("new-epoch without -yes: %d\n%s", code, stderr)
	}
	same, err := migrations.Read(t.Context(), db.Pool)
	if err != nil || same.Epoch != before.Epoch {
		t.Fatalf("the epoch changed without -yes (%v)", err)
	}
	code, stdout, stderr := invoke(t, db.URL, "new-epoch", "-yes")
	after, err := migrations.Read(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if code != exitOK || after.Epoch == before.Epoch || !strings.Contains(stdout, after.Epoch) {
		t.Errorf("new-epoch -yes: %d, epoch %s to %s\n%s%s", code, before.Epoch, after.Epoch, stdout, stderr)
	}
	code, _, stderr = invoke(t, testdb.Empty(t).URL, "-yes", "new-epoch")
	if code != exitFailed || !strings.Contains(stderr, "restante-migrate up") {
		t.Errorf("new-epoch of an empty database: %d\n%s", code, stderr)
	}
}

func TestVersionNeedsNoDatabase(t *testing.T) {
	t.Parallel()
	code, stdout, _ := invoke(t, "", "version")
	if code != exitOK || !strings.Contains(stdout, "river schema 8\nlog schema ") {
		t.Errorf("version: %d\n%s", code, stdout)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-h"}, {"--help"}, {"up", "-h"}, {"help"}} {
		code, stdout, stderr := invoke(t, "", args...)
		if code != exitOK || stdout != usage || stderr != "" {
			t.Errorf("%v: %d\n%s%s", args, code, stdout, stderr)
		}
	}
	for name := range commands() {
		if !strings.Contains(usage, "\n  "+name+" ") {
			t.Errorf("the help does not explain %s", name)
		}
	}
}

func TestUsageErrors(t *testing.T) {
	t.Parallel()
	const url = "postgres://localhost/none"
	for _, test := range []struct {
		args []string
		url  string
		want string
	}{
		{nil, url, "which command"},
		{[]string{"upp"}, url, `"upp" is no command`},
		{[]string{"up", "now"}, url, `up takes no arguments, got "now"`},
		{[]string{"-no-such-flag", "up"}, url, "no-such-flag"},
		{[]string{"up", "-timeout", "-1s"}, url, "negative"},
		{[]string{"up"}, "", "Set DATABASE_URL"},
	} {
		code, _, stderr := invoke(t, test.url, test.args...)
		if code != exitUsage || !strings.Contains(stderr, test.want) || !strings.Contains(stderr, "-h") {
			t.Errorf("%v: %d %q, want %d and %q", test.args, code, stderr, exitUsage, test.want)
		}
	}
}

func TestDatabaseThatCannotBeReached(t *testing.T) {
	t.Parallel()
	db := testdb.Empty(t)
	for _, test := range []struct{ name, url, want string }{
		{"no server", "postgres://ann:secret@127.0.0.1:1/restante", "does PostgreSQL run there?"},
		{"no database", strings.Replace(db.URL, "/t_", "/missing_", 1), "create it first"},
		{"no user", strings.Replace(db.URL, "//postgres@", "//missing@", 1), "check user and password"},
		{"no URL", "postgres://%zz", "cannot be read"},
	} {
		for _, command := range []string{"up", "status"} {
			code, _, stderr := invoke(t, test.url, command)
			if code != exitFailed || !strings.Contains(stderr, test.want) || strings.Contains(stderr, "secret") {
				t.Errorf("%s, %s: %d %q, want %d and %q", test.name, command, code, stderr, exitFailed, test.want)
			}
		}
	}
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	db := testdb.Empty(t)
	conn, err := db.Pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(x'72657374616e7465'::bigint)"); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := invoke(t, db.URL, "up", "-timeout", "300ms")
	if code != exitFailed || !strings.Contains(stderr, "not done after 300ms (-timeout)") {
		t.Errorf("up under another's lock: %d\n%s", code, stderr)
	}
}
