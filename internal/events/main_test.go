package events_test

import (
	"context"
	"encoding/json"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// replica is a running Log on a database of its own.
type replica struct {
	*events.Log
	durable, relaxed *pgxpool.Pool
	upkeep           *pgxpool.Pool

	mu      sync.Mutex
	commits [][]events.Head
}

// startLog runs a Log on a fresh database.
func startLog(t *testing.T, change ...func(*events.Config)) *replica {
	t.Helper()
	return startLogOn(t, testdb.New(t).URL, change...)
}

// startLogOn runs a Log on a database, as one of several replicas would.
func startLogOn(t *testing.T, url string, change ...func(*events.Config)) *replica {
	t.Helper()
	r := &replica{}
	r.durable, r.relaxed = open(t, url, database.DurableConfig), open(t, url, database.RelaxedConfig)
	r.upkeep = open(t, url, database.JobsConfig)
	cfg := events.Config{
		Durable: r.durable, Relaxed: r.relaxed, Upkeep: r.upkeep,
		OnCommit: func(heads []events.Head, _ iter.Seq[events.Entry]) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.commits = append(r.commits, append([]events.Head(nil), heads...))
		},
		DeliverDelay: 10 * time.Second, Lease: 12 * time.Second, Retention: 24 * time.Hour, KeyRetention: 24 * time.Hour,
		Metrics: prometheus.NewRegistry(),
	}
	for _, c := range change {
		c(&cfg)
	}
	r.Log = events.New(cfg)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run log: %v", err)
		}
		r.durable.Close()
		r.relaxed.Close()
		r.upkeep.Close()
	})
	return r
}

func open(t *testing.T, url string, config func(string, int) (*pgxpool.Config, error)) *pgxpool.Pool {
	t.Helper()
	cfg, err := config(url, 4)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := database.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func message(user, text string) events.Message {
	payload, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return events.Message{UserID: user, Payload: payload, Publisher: "test", TTL: time.Hour}
}

// known makes streams, as their users' first connects do. An append to a stream that
// there is not parks its lane.
func (r *replica) known(t *testing.T, users ...string) {
	t.Helper()
	r.exec(t, `INSERT INTO streams (user_id) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING`, users)
}

// post appends one message to a stream that there is, and returns its seq.
func (r *replica) post(t *testing.T, user, text string) int64 {
	t.Helper()
	r.known(t, user)
	receipts, err := r.Append(t.Context(), []events.Message{message(user, text)})
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return receipts[0].Seq
}

// lane returns a user's lane as it stands in the database, with the number of
// unfinished delivery jobs.
func (r *replica) lane(t *testing.T, user string) (lane events.Lane, jobs int) {
	t.Helper()
	err := r.relaxed.QueryRow(t.Context(), `SELECT s.lane, (SELECT count(*) FROM river_job j
		WHERE j.kind = 'deliver' AND j.args->>'user_id' = s.user_id AND j.finalized_at IS NULL)
		FROM streams s WHERE s.user_id = $1`, user).Scan(&lane, &jobs)
	if err != nil {
		t.Fatalf("read lane: %v", err)
	}
	return lane, jobs
}

func (r *replica) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := r.relaxed.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// until polls a condition, for what happens in the background.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not: %s", what)
		}
	}
}
