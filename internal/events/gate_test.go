package events_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/database"
	"restante/internal/events"
)

// gate keeps transactions that have changed a table from committing: they do all
// their work, hold all their locks and snapshots, and stop just before the end.
// It is how a race between two transactions is made to happen the same way each time.
type gate struct {
	conn *pgx.Conn
	open func()
}

const gateKey = 4711

// shut makes every later commit that inserted into, or updated, the table wait
// until open is called.
func (r *replica) shut(t *testing.T, table string) *gate {
	t.Helper()
	return r.shutWhen(t, table, "true")
}

// shutWhen is shut for the rows for which a condition holds.
func (r *replica) shutWhen(t *testing.T, table, condition string) *gate {
	t.Helper()
	r.exec(t, `CREATE OR REPLACE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$`)
	r.exec(t, `CREATE CONSTRAINT TRIGGER gate AFTER INSERT OR UPDATE ON `+table+`
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (`+condition+`) EXECUTE FUNCTION wait_at_gate()`)
	conn, err := pgx.ConnectConfig(t.Context(), r.durable.Config().ConnConfig.Copy())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_lock($1)`, gateKey); err != nil {
		t.Fatal(err)
	}
	g := &gate{conn: conn}
	g.open = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := conn.Close(ctx); err != nil {
			t.Errorf("open gate: %v", err)
		}
	})
	t.Cleanup(g.open)
	return g
}

// held waits until n transactions stand at the gate.
func (r *replica) held(t *testing.T, n int) {
	t.Helper()
	r.blocked(t, n, `wait_event_type = 'Lock' AND wait_event = 'advisory'`)
}

// waiting waits until n transactions wait for a row that another one has locked.
func (r *replica) waiting(t *testing.T, n int) {
	t.Helper()
	r.blocked(t, n, `wait_event_type = 'Lock' AND wait_event <> 'advisory'`)
}

func (r *replica) blocked(t *testing.T, n int, where string) {
	t.Helper()
	until(t, "transactions wait: "+where, func() bool { return r.backends(t, where) >= n })
}

// backends counts the connections of this database in a state.
func (r *replica) backends(t *testing.T, where string) (n int) {
	t.Helper()
	err := r.relaxed.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND `+where).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// lockAll locks streams that exist, in a transaction of somebody else's, until
// release is called.
func (r *replica) lockAll(t *testing.T, users ...string) (release func()) {
	t.Helper()
	return r.foreign(t, `SELECT FROM streams WHERE user_id = ANY($1) ORDER BY user_id FOR UPDATE`, users)
}

// stranger opens a connection without any settings of ours.
func (r *replica) stranger(t *testing.T) *pgx.Conn {
	t.Helper()
	cfg := r.durable.Config().ConnConfig.Copy()
	cfg.RuntimeParams = map[string]string{}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// foreign begins a transaction of somebody else's, which stays open until end is
// called; then it is rolled back.
func (r *replica) foreign(t *testing.T, sql string, args ...any) (end func()) {
	t.Helper()
	conn := r.stranger(t)
	for _, do := range []struct {
		sql  string
		args []any
	}{{"BEGIN", nil}, {sql, args}} {
		if _, err := conn.Exec(t.Context(), do.sql, do.args...); err != nil {
			t.Fatal(err)
		}
	}
	return sync.OnceFunc(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
}

// patient gives a Log connections that wait longer for locks than it gives its
// transactions time, so that on a slow machine a race that a test has arranged is
// not decided by the clock. Plans that a test does not want are switched off.
func patient(t *testing.T, url string, switchedOff ...string) func(*events.Config) {
	pool := func(config func(string, int) (*pgxpool.Config, error)) *pgxpool.Pool {
		cfg, err := config(url, 8)
		if err != nil {
			t.Fatal(err)
		}
		cfg.ConnConfig.RuntimeParams["lock_timeout"] = "30s"
		for _, plan := range switchedOff {
			cfg.ConnConfig.RuntimeParams[plan] = "off"
		}
		p, err := database.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p
	}
	return func(cfg *events.Config) {
		cfg.Durable, cfg.Relaxed = pool(database.DurableConfig), pool(database.RelaxedConfig)
	}
}

// doing runs do in a goroutine and returns a channel with its result.
func doing[T any](do func() (T, error)) <-chan result[T] {
	done := make(chan result[T], 1)
	go func() {
		value, err := do()
		done <- result[T]{value, err}
	}()
	return done
}

type result[T any] struct {
	value T
	err   error
}

// get waits for the result of doing.
func get[T any](t *testing.T, what string, done <-chan result[T]) T {
	t.Helper()
	select {
	case r := <-done:
		if r.err != nil {
			t.Fatalf("%s: %v", what, r.err)
		}
		return r.value
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: no end", what)
		panic("unreachable")
	}
}
