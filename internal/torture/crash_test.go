package torture

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/coretest"
	"restante/internal/testdb"
)

// TestPostgresCrashes kills Postgres, fsync on, in the middle of the work of two
// replicas, several times. What was answered is in the log and arrives; the
// clients' connections stay; the unlogged tables come back empty, and the
// replicas find that out and attach every session again.
func TestPostgresCrashes(t *testing.T) {
	t.Parallel()
	cluster := testdb.Cluster(t)
	url := testdb.Migrated(t, cluster)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	w := newWorld(t, worldConfig{
		pool: pool, url: url, seed: drawSeed(t), replicas: 2, users: 24, devices: 2,
		options: coretest.Options{DeliverDelay: 300 * time.Millisecond, Sweep: 500 * time.Millisecond, Lease: 2 * time.Second},
	})
	publishers, stopPublishing := w.publishers(8)
	for _, u := range w.users[:len(w.users)*2/3] { // the others are offline
		for _, d := range u.devices {
			d.want(true)
		}
	}
	var away atomic.Bool
	monitor := w.watch(rules{behindAtMost: behindAtMost, blind: away.Load})
	stopLoad := w.load(publishers)

	const crashes = 3
	for crash := range crashes {
		pause(1500 * time.Millisecond)
		if _, err := pool.Exec(t.Context(), `INSERT INTO tokens (jti, expires_at) VALUES ('marker', now() + interval '1 hour')`); err != nil {
			t.Fatal(err)
		}
		away.Store(true)
		if err := cluster.Kill(); err != nil {
			t.Fatal(err)
		}
		pause(300 * time.Millisecond)
		if err := cluster.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		pool.Reset()
		away.Store(false)
		var tokens int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM tokens`).Scan(&tokens); err != nil || tokens != 0 {
			t.Errorf("%d tokens have survived the crash (%v): the unlogged tables were not emptied", tokens, err)
		}
		// To a replica, a crash that comes before it has noticed the last one is the same.
		for _, r := range w.replicas() {
			for wait := 400; r.counter(t, "restante_lease_lapses_total", "") <= float64(crash) && wait > 0; wait-- {
				pause(50 * time.Millisecond)
			}
		}
	}
	pause(time.Second)
	stopLoad()
	stopPublishing()
	w.rest(time.Minute)
	w.presence(10 * time.Second)
	for i, r := range w.replicas() {
		if n := r.counter(t, "restante_lease_lapses_total", ""); n < crashes {
			t.Errorf("replica %d has noticed %v of %d crashes", i, n, crashes)
		}
		for _, reason := range []string{"drain", "max_age", "no_ack"} {
			if n := r.counter(t, "restante_sessions_closed_total", reason); n != 0 {
				t.Errorf("replica %d has closed %v sessions: %s", i, n, reason)
			}
		}
	}
	for _, u := range w.users {
		u.devices[0].want(true)
	}
	w.rest(time.Minute)
	monitor.end()
	w.audit()
}

// load posts, to random users, until it is stopped.
func (w *world) load(publishers []*publisher) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i, p := range publishers {
		r := rand.New(rand.NewPCG(w.seed, uint64(i)<<16))
		running.Go(func() {
			for ctx.Err() == nil {
				q := post{r: rand.New(rand.NewPCG(r.Uint64(), 0)), keyed: oneIn(r, 2)}
				for range 1 + r.IntN(5) {
					q.users = append(q.users, w.users[r.IntN(len(w.users))])
				}
				select {
				case p.queue <- q:
				case <-ctx.Done():
				}
				pause(time.Duration(r.Int64N(int64(20*time.Millisecond))), ctx.Done())
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}
