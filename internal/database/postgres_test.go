package database_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"restante/internal/database"
	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// gather returns the collector's samples by name and labels.
func gather(t *testing.T, pool *pgxpool.Pool) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(database.NewPostgresCollector(pool))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := strings.TrimPrefix(f.GetName(), "restante_postgres_")
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

// relaxed opens the pool that a replica would give to the collector.
func relaxed(t *testing.T, url string, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	cfg, err := database.RelaxedConfig(url, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range change {
		c(cfg)
	}
	pool, err := database.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestPostgresTellsWhatHurts(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	pool := relaxed(t, db.URL)
	exec := func(conn interface {
		Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	}, sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	before := gather(t, pool)
	if before["up"] != 1 || before["connections active"] < 1 || before["connections_max"] < 10 || before["database_bytes"] < 1<<20 ||
		before["lock_waits"] != 0 || before["notification_queue_fullness"] != 0 {
		t.Errorf("at rest: %v", before)
	}

	// A transaction that stays open, with dead rows, and somebody who waits for it.
	exec(db.Pool, `INSERT INTO streams (user_id) SELECT 'user-' || i FROM generate_series(1, 500) i`)
	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exec(tx, `UPDATE streams SET head = 1`)
	waits := make(chan error, 1)
	waiting, stop := context.WithCancel(t.Context())
	go func() {
		_, err := db.Pool.Exec(waiting, `UPDATE streams SET head = 2 WHERE user_id = 'user-7'`)
		waits <- err
	}()
	eventually(t, "somebody is seen waiting", func() bool { return gather(t, pool)["lock_waits"] == 1 })
	during := gather(t, pool)
	if during["connections idle_in_transaction"] < 1 || during["oldest_transaction_seconds"] <= 0 {
		t.Errorf("with a transaction open: %v", during)
	}
	stop()
	<-waits
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}

	// Statistics are written by the session that caused them: at its end, or when it
	// has been idle for a while.
	db.Pool.Reset()
	eventually(t, "the rows that were rolled back are dead", func() bool {
		after := gather(t, pool)
		return after["table_dead_rows streams"] >= 500 && after["table_live_rows streams"] == 500 &&
			after["transactions_total rollback"] > before["transactions_total rollback"] &&
			after["transactions_total commit"] > before["transactions_total commit"] &&
			after["wal_bytes_total"] > before["wal_bytes_total"]
	})
	old := gather(t, pool)["table_vacuum_age_seconds streams"]
	exec(db.Pool, `VACUUM streams`)
	eventually(t, "vacuum has removed them", func() bool {
		after := gather(t, pool)
		return after["table_dead_rows streams"] == 0 && after["table_vacuum_age_seconds streams"] < old &&
			after["table_bytes rows streams"] > 0 && after["table_bytes indexes streams"] > 0
	})
	if got := gather(t, pool)["table_bytes rows streams"]; got != size(t, db, "streams") {
		t.Errorf("streams has %v bytes, want %v", got, size(t, db, "streams"))
	}
}

// TestPostgresForAnOrdinaryRole: a role without any privilege sees the same
// metrics; what others do is hidden from it.
func TestPostgresForAnOrdinaryRole(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	role := strings.ToLower("ordinary_" + t.Name()[len(t.Name())-4:])
	if _, err := db.Pool.Exec(t.Context(), `CREATE ROLE `+role); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := db.Pool.Exec(context.Background(), `DROP ROLE `+role); err != nil {
			t.Error(err)
		}
	})
	plain := relaxed(t, db.URL, func(cfg *pgxpool.Config) {
		cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `SET ROLE `+role)
			return err
		}
	})
	all, few := gather(t, relaxed(t, db.URL)), gather(t, plain)
	if got, want := slices.Sorted(maps.Keys(few)), slices.Sorted(maps.Keys(all)); !slices.Equal(got, want) {
		t.Errorf("an ordinary role has %v, want %v", got, want)
	}
	if few["up"] != 1 || few["connections hidden"] < 1 || all["connections hidden"] != 0 {
		t.Errorf("an ordinary role sees %v", few)
	}
}

// TestPostgresAway: a scrape is answered in time, whether Postgres refuses or
// says nothing.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	for name, address := range map[string]string{"refuses": "127.0.0.1:1", "says nothing": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := relaxed(t, fmt.Sprintf("postgres://nobody@%s/nothing?sslmode=disable", address))
			began := time.Now()
			if got := gather(t, pool); len(got) != 1 || got["up"] != 0 {
				t.Errorf("without Postgres: %v", got)
			}
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("the scrape took %v", took)
			}
		})
	}
}

func TestPostgresMetricsAreWellNamed(t *testing.T) {
	t.Parallel()
	problems, err := testutil.CollectAndLint(database.NewPostgresCollector(testdb.New(t).Pool))
	if err != nil || len(problems) != 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func BenchmarkPostgresScrape(b *testing.B) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(database.NewPostgresCollector(testdb.New(b).Pool))
	for b.Loop() {
		if _, err := registry.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

func size(t *testing.T, db *testdb.Database, table string) (bytes float64) {
	t.Helper()
	if err := db.Pool.QueryRow(t.Context(), `SELECT pg_relation_size($1)::float8`, table).Scan(&bytes); err != nil {
		t.Fatal(err)
	}
	return bytes
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
