package hub_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/coretest"
	"restante/internal/events"
	"restante/internal/hub"
	"restante/internal/testdb"
)

// The counter-example: the pool is busy, and for the others its replica is dead.
func TestBusyPoolDoesNotCostTheLease(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	const lease = 3 * time.Second
	r := coretest.Start(t, coretest.Options{URL: db.URL, NoJobs: true, Lease: lease})
	for range r.Relaxed.Config().MaxConns {
		conn, err := r.Relaxed.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release() // before the replica stops
	}
	var began, beaten time.Time
	if err := db.Pool.QueryRow(t.Context(), `SELECT clock_timestamp()`).Scan(&began); err != nil {
		t.Fatal(err)
	}
	until(t, "the lease is renewed when the last one of before has run out", func() bool {
		var age time.Duration
		if err := db.Pool.QueryRow(t.Context(), `SELECT heartbeat_at, clock_timestamp() - heartbeat_at FROM replicas`).Scan(&beaten, &age); err != nil {
			t.Fatal(err)
		}
		if age > lease {
			t.Fatalf("the last heartbeat is %v old", age)
		}
		return beaten.Sub(began) > lease
	})
}

// The counter-example: the heartbeat's connection is dead and says nothing about
// it. It is given up, and another one tried, before the lease counts as lapsed, at two
// thirds of it. (How long a loaded machine then takes to connect is not ours: 1.2 s, once.)
func TestFrozenHeartbeatConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	const lease = 9 * time.Second
	way := &freezing{frozen: make(chan struct{})}
	heart := hub.NewHeart("one", "here", connector(t, testdb.New(t).URL, way.dial),
		func(ctx context.Context, conn *pgx.Conn, _, _ string) (events.Beat, error) {
			_, err := conn.Exec(ctx, `SELECT`)
			return events.Beat{}, err
		})
	var mu sync.Mutex           // guards good, tried, bad
	var good, tried []time.Time // when heartbeats succeeded, and when those began
	var bad []time.Duration
	log := newFakeLog()
	h := hub.New(hub.Config{
		ReplicaID: "one", Lease: lease, Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Beat: func(ctx context.Context) (events.Beat, error) {
			began := time.Now()
			beat, err := heart.Beat(ctx)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				good, tried = append(good, time.Now()), append(tried, began)
			} else {
				bad = append(bad, time.Since(began))
			}
			return beat, err
		},
	}, log, log)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Run(ctx) // it never fails
	}()
	beats := func(n int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(good) >= n
		}
	}
	until(t, "a heartbeat", beats(1))
	way.freeze()
	until(t, "another one", beats(2))
	stop()
	<-done
	heart.Stop()
	if gap := tried[1].Sub(good[0]); gap > lease*2/3 {
		t.Errorf("%v without a heartbeat before another connection was tried", gap)
	}
	if len(bad) != 1 || bad[0] > lease/3 {
		t.Errorf("failed heartbeats took %v", bad)
	}
}

// The counter-example: Postgres has emptied its unlogged tables, and the heartbeat
// that finds it out loses its answer. The next one finds the row that this one made.
func TestLapseIsNotLostWithItsAnswer(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	r := coretest.Start(t, coretest.Options{URL: db.URL, NoJobs: true})
	lose := false
	heart := hub.NewHeart("one", "here", connector(t, db.URL, nil),
		func(ctx context.Context, conn *pgx.Conn, replicaID, address string) (events.Beat, error) {
			beat, err := r.Log.Heartbeat(ctx, conn, replicaID, address)
			if lose {
				return events.Beat{}, context.DeadlineExceeded
			}
			return beat, err
		})
	defer heart.Stop()
	beat := func() events.Beat {
		t.Helper()
		b, err := heart.Beat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !beat().Lapsed || beat().Lapsed {
		t.Fatal("only the first heartbeat finds no lease")
	}
	if _, err := db.Pool.Exec(t.Context(), `DELETE FROM replicas WHERE replica_id = 'one'`); err != nil {
		t.Fatal(err)
	}
	lose = true
	if _, err := heart.Beat(t.Context()); err == nil {
		t.Fatal("the answer was not lost")
	}
	lose = false
	if !beat().Lapsed {
		t.Error("nobody was told that the lease had lapsed")
	}
	if beat().Lapsed {
		t.Error("it was told twice")
	}
}
