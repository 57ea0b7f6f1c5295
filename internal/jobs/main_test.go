package jobs_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/jobs"
	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// core is what the jobs ask for, in memory; it records what it is asked.
type core struct {
	settle func(ctx context.Context, user string) (events.Debt, error)
	still  func(user string) (events.Debt, bool, error) // leaves it to settle, if nil

	mu    sync.Mutex // guards all below
	calls []string
	woken []string
	at    []time.Time // of the settles
}

func (c *core) Settle(ctx context.Context, user string) (events.Debt, error) {
	c.mu.Lock()
	c.at = append(c.at, time.Now())
	c.mu.Unlock()
	c.call("settle " + user)
	return c.settle(ctx, user)
}

func (c *core) StillOwed(_ context.Context, user string) (events.Debt, bool, error) {
	c.call("look " + user)
	if c.still != nil {
		return c.still(user)
	}
	return events.Debt{}, false, nil
}

func (c *core) call(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, name)
}

func (c *core) called(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.calls, name)
}

func (c *core) settles() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.at)
}

func (c *core) Trim(_ context.Context, budget time.Duration) (events.Trimmed, error) {
	if budget > 0 && budget < time.Minute {
		c.call("trim")
	}
	return events.Trimmed{}, nil
}

func (c *core) Reconcile(_ context.Context, longest time.Duration) (int64, error) {
	if longest > 5*time.Second { // longer than any job may take
		c.call("reconcile")
	}
	return 0, nil
}

func (c *core) Reap(context.Context) (replicas, jobs int64, err error) {
	c.call("reap")
	return 0, 0, nil
}

func (c *core) TakeCensus(context.Context) error {
	c.call("census")
	return nil
}

func (c *core) Purge(context.Context) (int64, error) {
	c.call("purge")
	return 0, nil
}

func (c *core) wake(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.woken = append(c.woken, user)
}

func (c *core) wakes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.woken)
}

func (c *core) wokenUser(user string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.woken, user)
}

// work runs Jobs until the test ends or stop is called.
func work(t *testing.T, db *testdb.Database, c *core, change ...func(*jobs.Config)) (stop func()) {
	t.Helper()
	cfg := jobs.Config{
		Pool: riversPool(t, db.URL), ReplicaID: "one", Lanes: c, Log: c, Tokens: c, Wake: c.wake,
		PollEvery: 50 * time.Millisecond, DeliverDelay: 10 * time.Second,
		Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}
	for _, do := range change {
		do(&cfg)
	}
	j, err := jobs.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func riversPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	cfg, err := database.JobsConfig(url, 6)
	if err != nil {
		t.Fatal(err)
	}
	pool, err := database.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// insert adds a delivery job as the append does, with metadata.
func insert(t *testing.T, db *testdb.Database, user, metadata string) (id int64) {
	t.Helper()
	err := db.Pool.QueryRow(t.Context(), `INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at, metadata)
		VALUES (jsonb_build_object('user_id', $1::text), 'deliver', 'deliver', 30000, now(), $2) RETURNING id`, user, metadata).Scan(&id)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// job is a row of River's table.
type job struct {
	State   string
	Attempt int
	Snoozes int
	DueIn   time.Duration // from its last start
}

func look(t *testing.T, db *testdb.Database, id int64) job {
	t.Helper()
	rows, err := db.Pool.Query(t.Context(), `SELECT state::text, attempt, coalesce((metadata->>'snoozes')::int, 0),
		coalesce(scheduled_at - attempted_at, '0') FROM river_job WHERE id = $1`, id)
	if err != nil {
		t.Fatal(err)
	}
	j, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[job])
	if err != nil {
		t.Fatal(err)
	}
	return j
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
