package database_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/database"
	"restante/internal/testdb"
)

// linked opens a pool and a connector of one link.
func linked(t *testing.T, url string, check func(context.Context, *pgx.Conn) error) (*database.Link, *pgxpool.Pool, func(context.Context) (*pgx.Conn, error)) {
	t.Helper()
	link := database.NewLink(check)
	cfg, err := database.DurableConfig(url, 3)
	if err != nil {
		t.Fatal(err)
	}
	p, err := link.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	signals, err := database.SignalConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	return link, p, link.Connector(signals)
}

func TestCutEndsEveryConnection(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	link, p, connect := linked(t, url, func(context.Context, *pgx.Conn) error { return nil })
	signal, err := connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slow := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		conn, err := p.Acquire(t.Context())
		close(started)
		if err == nil {
			_, err = conn.Exec(t.Context(), `SELECT pg_sleep(10)`)
			conn.Release()
		}
		slow <- err
	}()
	<-started
	link.Cut()
	start := time.Now()
	if err := <-slow; err == nil {
		t.Error("a statement outlived the cut")
	}
	if err := signal.Ping(t.Context()); err == nil {
		t.Error("a connection outlived the cut")
	}
	if err := p.Ping(t.Context()); !errors.Is(err, database.ErrCut) {
		t.Errorf("pool: %v", err)
	}
	if _, err := connect(t.Context()); !errors.Is(err, database.ErrCut) {
		t.Errorf("connect: %v", err)
	}
	p.Close()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestRefusedConnectionIsNotUsed(t *testing.T) {
	t.Parallel()
	refused := errors.New("not this one")
	var refuse atomic.Bool
	_, p, connect := linked(t, testdb.New(t).URL, func(context.Context, *pgx.Conn) error {
		if refuse.Load() {
			return refused
		}
		return nil
	})
	refuse.Store(true)
	if err := p.Ping(t.Context()); !errors.Is(err, refused) {
		t.Errorf("pool: %v", err)
	}
	if _, err := connect(t.Context()); !errors.Is(err, refused) {
		t.Errorf("connect: %v", err)
	}
	refuse.Store(false)
	if err := p.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// The counter-example: somebody has turned synchronous_commit off, for the database
// or in the URL, and a 202 is not on disk.
func TestDurableConnectionsWaitForTheDisk(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	sep := "?"
	if strings.Contains(db.URL, "?") {
		sep = "&"
	}
	for setting, want := range map[string]string{"off": "on", "local": "local", "remote_apply": "remote_apply"} {
		var name string
		if err := db.Pool.QueryRow(t.Context(), `SELECT current_database()`).Scan(&name); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Pool.Exec(t.Context(), `ALTER DATABASE `+pgx.Identifier{name}.Sanitize()+` SET synchronous_commit = `+setting); err != nil {
			t.Fatal(err)
		}
		for _, url := range []string{db.URL, db.URL + sep + "synchronous_commit=" + setting} {
			var got string
			if err := pool(t, database.DurableConfig, url).QueryRow(t.Context(), `SHOW synchronous_commit`).Scan(&got); err != nil || got != want {
				t.Errorf("%s: %s, %v", setting, got, err)
			}
		}
	}
}

// A server that takes no writes is passed over, unless the URL asks for it.
func TestReadOnlyServerIsRefused(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	sep := "?"
	if strings.Contains(db.URL, "?") {
		sep = "&"
	}
	url := db.URL + sep + "default_transaction_read_only=on"
	if err := pool(t, database.DurableConfig, url).Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "read only") {
		t.Errorf("ping: %v", err)
	}
	if err := pool(t, database.DurableConfig, url+"&target_session_attrs=read-only").Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
