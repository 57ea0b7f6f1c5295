package testdb

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// ServerEnv names the environment variable that points to a server to use
// instead of a private one.
const ServerEnv = "TEST_DATABASE_URL"

// poolConns is enough for a test's concurrency, and lets some 25 tests run in
// parallel on the shared cluster's 300 connections.
const poolConns = 10

// setupTimeout bounds what one test waits for a database; starting the cluster,
// and installing PostgreSQL where it is missing, have limits of their own.
const setupTimeout = time.Minute

// Database is one test's database.
type Database struct {
	URL  string
	Pool *pgxpool.Pool
}

// process is this test process's server: testing gives a package one place for
// what all its tests share, TestMain, and no way to hand a value from there to
// the tests.
var process struct {
	mu     sync.Mutex
	inMain bool
	server *server
	err    error // why the server did not start; tried once
}

// Main runs a package's tests and then stops what New started. Use it as
//
//	func TestMain(m *testing.M) { testdb.Main(m) }
func Main(m *testing.M) { os.Exit(Run(m)) }

// Run is Main for packages that have something of their own to clean up: it
// returns the exit code.
func Run(m *testing.M) (code int) {
	process.mu.Lock()
	process.inMain = true
	process.mu.Unlock()

	code = m.Run()

	process.mu.Lock()
	defer process.mu.Unlock()
	if process.server != nil {
		if err := process.server.stop(); err != nil {
			fmt.Fprintf(os.Stderr, "testdb: %v\n", err)
			code = max(code, 1)
		}
	}
	return code
}

// New returns a migrated database for this test. It is dropped when the test
// ends; after a failure on a server named by TEST_DATABASE_URL it is kept, and
// its name logged.
func New(t testing.TB) *Database {
	t.Helper()
	return fromTemplate(t, true)
}

// Empty is New without the schema, for tests of migrating.
func Empty(t testing.TB) *Database {
	t.Helper()
	return fromTemplate(t, false)
}

func fromTemplate(t testing.TB, migrated bool) *Database {
	t.Helper()
	s, err := shared()
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	name, err := s.create(ctx, t.Name(), migrated)
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	database, err := open(ctx, s.url(name))
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() {
		if !closeWithin(database.Pool, 10*time.Second) {
			t.Errorf("testdb: a connection of the test's pool was never given back")
		}
		if t.Failed() && s.cluster == nil {
			t.Logf("testdb: the database is kept: %s", name)
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		if err := s.drop(ctx, name); err != nil {
			t.Errorf("testdb: %v", err)
		}
	})
	return database
}

// shared returns the process's server, started by the first caller.
func shared() (*server, error) {
	process.mu.Lock()
	defer process.mu.Unlock()
	if !process.inMain {
		return nil, fmt.Errorf("the package's tests need: func TestMain(m *testing.M) { testdb.Main(m) }")
	}
	if process.server == nil && process.err == nil {
		process.server, process.err = start(context.Background())
	}
	return process.server, process.err
}

func open(ctx context.Context, databaseURL string) (*Database, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = poolConns
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &Database{URL: databaseURL, Pool: pool}, nil
}

// closeWithin closes a pool, which waits for every connection to come back. A
// test that lost one must fail, not hang.
func closeWithin(pool *pgxpool.Pool, limit time.Duration) bool {
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return true
	case <-time.After(limit):
		return false
	}
}

// databaseName makes a name that tells whose it is: at most 63 bytes, unique by
// its number among the databases of one process.
func databaseName(prefix string, number int64, test string) string {
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		default:
			return '_'
		}
	}, test)
	name := fmt.Sprintf("%s_%d_%s", prefix, number, safe)
	return name[:min(len(name), 63)]
}

// withDatabase returns a connection URL with another database's name.
func withDatabase(databaseURL, name string) (string, error) {
	u, err := url.Parse(databaseURL)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		return "", fmt.Errorf("%s must be a URL, postgres://…", ServerEnv)
	}
	u.Path = "/" + name
	return u.String(), nil
}
