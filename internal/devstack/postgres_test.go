package devstack_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"restante/internal/devstack"
)

// newDir returns a directory that the server's user can pass, which t.TempDir's
// parent is not.
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "restante-devstack-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func config(t *testing.T, dir string) devstack.PostgresConfig {
	t.Helper()
	binDir, err := devstack.FindPostgres(t.Context(), true, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	return devstack.PostgresConfig{Dir: dir, BinDir: binDir, Settings: map[string]string{"shared_buffers": "16MB"}}
}

func start(t *testing.T, config devstack.PostgresConfig) *devstack.Postgres {
	t.Helper()
	p, err := devstack.StartPostgres(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, p) })
	return p
}

func stop(t *testing.T, p *devstack.Postgres) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func connect(t *testing.T, p *devstack.Postgres) *pgx.Conn {
	t.Helper()
	if err := p.CreateDatabase(t.Context(), "restante"); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), p.URL("restante"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func number(t *testing.T, conn *pgx.Conn, sql string) (n int) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestPostgresKeepsDataThroughStopAndKill(t *testing.T) {
	t.Parallel()
	config := config(t, newDir(t))
	p := start(t, config)
	conn := connect(t, p)
	exec(t, conn, "CREATE TABLE kept (n int)")
	exec(t, conn, "CREATE UNLOGGED TABLE emptied (n int)")
	exec(t, conn, "INSERT INTO kept VALUES (1)")
	exec(t, conn, "INSERT INTO emptied VALUES (1)")

	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn = connect(t, p)
	if kept, emptied := number(t, conn, "SELECT count(*) FROM kept"), number(t, conn, "SELECT count(*) FROM emptied"); kept != 1 || emptied != 1 {
		t.Errorf("after an orderly restart: %d kept, %d unlogged; want 1 and 1", kept, emptied)
	}
	exec(t, conn, "INSERT INTO kept VALUES (2)")

	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	default:
		t.Error("Done is open after Kill")
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn = connect(t, p)
	if kept, emptied := number(t, conn, "SELECT count(*) FROM kept"), number(t, conn, "SELECT count(*) FROM emptied"); kept != 2 || emptied != 0 {
		t.Errorf("after a crash: %d kept, %d unlogged; want 2 and 0", kept, emptied)
	}

	stop(t, p)
	again := start(t, config)
	if again.Attached() {
		t.Error("attached to a server that was stopped")
	}
	if kept := number(t, connect(t, again), "SELECT count(*) FROM kept"); kept != 2 {
		t.Errorf("a new start finds %d rows, want 2", kept)
	}
}

func TestPostgresIsPrivateAndDurable(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	conn := connect(t, start(t, config(t, dir)))
	for setting, want := range map[string]string{
		"listen_addresses":   "",
		"fsync":              "on",
		"synchronous_commit": "on",
		"full_page_writes":   "on",
		"data_directory":     devstack.DataDirectory(dir),
		"server_encoding":    "UTF8",
		"shared_buffers":     "16MB",
		"max_connections":    "200",
	} {
		var got string
		if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", setting).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s = %q, want %q", setting, got, want)
		}
	}
	for _, path := range []string{devstack.DataDirectory(dir), filepath.Join(dir, "socket")} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %o, want 700", path, info.Mode().Perm())
		}
	}
}

func TestPostgresSecondStartAttaches(t *testing.T) {
	t.Parallel()
	config := config(t, newDir(t))
	// Both at once, on a directory that does not exist yet.
	var starts sync.WaitGroup
	found := make([]*devstack.Postgres, 2)
	errs := make([]error, 2)
	for i := range found {
		starts.Go(func() { found[i], errs[i] = devstack.StartPostgres(t.Context(), config) })
	}
	starts.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	owner, guest := found[0], found[1]
	if owner.Attached() {
		owner, guest = guest, owner
	}
	t.Cleanup(func() { stop(t, owner) })
	if owner.Attached() || !guest.Attached() {
		t.Fatalf("attached: %v and %v, want one of them", owner.Attached(), guest.Attached())
	}
	if err := guest.Kill(); !errors.Is(err, devstack.ErrAttached) {
		t.Errorf("Kill of an attached Postgres: %v, want ErrAttached", err)
	}
	stop(t, guest)
	if got := number(t, connect(t, owner), "SELECT 1"); got != 1 {
		t.Error("the guest's Stop ended the owner's server")
	}

	stop(t, owner)
	if err := guest.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, guest) })
	if guest.Attached() {
		t.Error("the guest is attached to nobody")
	}
}

// A directory may have any name that the system allows.
func TestPostgresInADirectoryOfAnyName(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(newDir(t), `my files, "50%" + é'&=#`)
	p := start(t, config(t, dir))
	if got := number(t, connect(t, p), "SELECT 1"); got != 1 {
		t.Errorf("SELECT 1 is %d", got)
	}
}

func TestPostgresIgnoresStalePidFile(t *testing.T) {
	t.Parallel()
	config1 := config(t, newDir(t))
	p := start(t, config1)
	stop(t, p)
	// After a crash the pid in the file may belong to another process, here to
	// another PostgreSQL: the server itself refuses to start then.
	other := config(t, newDir(t))
	start(t, other)
	pid, err := os.ReadFile(filepath.Join(devstack.DataDirectory(other.Dir), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(devstack.DataDirectory(config1.Dir), "postmaster.pid")
	if err := os.WriteFile(pidFile, pid, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := giveToOwnerOf(pidFile, devstack.DataDirectory(config1.Dir)); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.Attached() {
		t.Error("attached to nobody")
	}
}

func TestPostgresSocketOfLongDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(newDir(t), strings.Repeat("long/", 20))
	p := start(t, config(t, dir))
	conn, err := pgx.ParseConfig(p.URL("restante"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(conn.Host, dir) {
		t.Errorf("the socket is in %s", conn.Host)
	}
	t.Cleanup(func() { os.RemoveAll(conn.Host) })
	connect(t, p)
}

func TestPostgresFailedStartShowsTheLog(t *testing.T) {
	t.Parallel()
	config := config(t, newDir(t))
	config.Settings["shared_buffers"] = "banana"
	_, err := devstack.StartPostgres(t.Context(), config)
	if err == nil || !strings.Contains(err.Error(), "banana") {
		t.Errorf("error %v does not say what is wrong", err)
	}
}

func TestPostgresOfAnotherVersion(t *testing.T) {
	t.Parallel()
	config := config(t, newDir(t))
	p := start(t, config)
	stop(t, p)
	if err := os.WriteFile(filepath.Join(devstack.DataDirectory(config.Dir), "PG_VERSION"), []byte("99\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := devstack.StartPostgres(t.Context(), config)
	if err == nil || !strings.Contains(err.Error(), "install version 99") {
		t.Errorf("error %v does not say which version is needed", err)
	}
}

func TestPostgresStartGivesUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := devstack.StartPostgres(ctx, config(t, newDir(t))); err == nil {
		t.Error("no error from a start that was cancelled")
	}
}

func TestPostgresCreateDatabaseTwice(t *testing.T) {
	t.Parallel()
	p := start(t, config(t, newDir(t)))
	for _, name := range []string{"plain", "plain", `odd "name"/?`, `odd "name"/?`} {
		if err := p.CreateDatabase(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(t.Context(), p.URL(name))
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if err := conn.QueryRow(t.Context(), "SELECT current_database()").Scan(&got); err != nil || got != name {
			t.Errorf("connected to %q, want %q (%v)", got, name, err)
		}
		conn.Close(t.Context())
	}
}

// TestMain runs the child of TestPostgresEndsWithItsProcess instead of the tests
// when it is asked to.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DEVSTACK_TEST_CHILD"); dir != "" {
		os.Exit(child(dir))
	}
	os.Exit(m.Run())
}

// child starts a Postgres, says so, and waits for the end of its input.
func child(dir string) int {
	p, err := devstack.StartPostgres(context.Background(), devstack.PostgresConfig{Dir: dir, Settings: map[string]string{"shared_buffers": "16MB"}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(p.URL("postgres"))
	io.Copy(io.Discard, os.Stdin)
	return 0
}
