package torture

import (
	"math/rand/v2"
	"testing"
	"time"

	"restante/internal/coretest"
	"restante/internal/testdb"
)

// TestJobsAloneDeliver: with every wake of an append suppressed, no sweep, no
// delay and one session per user, the delivery jobs deliver everything, in order,
// while replicas are killed.
func TestJobsAloneDeliver(t *testing.T) {
	t.Parallel()
	w := deliverByJobs(t, 1, coretest.Options{})
	// The only other way to a message is a new connection.
	for _, r := range w.replicas() {
		for _, source := range []string{"local", "sweep", "resync"} {
			if n := r.counter(t, "restante_wakes_total", source); n != 0 {
				t.Errorf("seed %d: %v wakes by %s", w.seed, n, source)
			}
		}
	}
}

// TestJobsAndSweepDeliverToAllSessions: with the sweep, the same holds for users
// with several sessions, whose jobs end when one of them has confirmed.
func TestJobsAndSweepDeliverToAllSessions(t *testing.T) {
	t.Parallel()
	deliverByJobs(t, 3, coretest.Options{Sweep: time.Second})
}

// deliverByJobs posts to 40 users on three replicas without waking anybody. Two
// replicas are killed meanwhile.
func deliverByJobs(t *testing.T, devices int, options coretest.Options) *world {
	db := testdb.New(t)
	w := newWorld(t, worldConfig{
		pool: db.Pool, url: db.URL, seed: drawSeed(t), replicas: 3, users: 40, devices: devices, dropped: 1, options: options,
	})
	publishers, stopPublishing := w.publishers(8)
	stopUpkeep := w.keepUp(longestJob)
	// A job looks every 5 s, and may have to be put back first.
	monitor := w.watch(rules{behindAtMost: 20 * time.Second})
	for _, u := range w.users {
		for _, d := range u.devices {
			d.want(true)
		}
	}
	const posts = 800
	r := rand.New(rand.NewPCG(w.seed, 1))
	for i := range posts {
		publishers[r.IntN(len(publishers))].queue <- post{r: rand.New(rand.NewPCG(r.Uint64(), 0)), users: []*user{w.users[r.IntN(len(w.users))]}, keyed: true}
		if i == posts/3 || i == 2*posts/3 {
			w.kill(w.any(r))
			w.join()
		}
		pause(time.Duration(r.Int64N(int64(20 * time.Millisecond))))
	}
	stopPublishing()
	w.kills.Wait()
	start := time.Now()
	w.rest(time.Minute)
	rested := time.Since(start)
	monitor.end()
	t.Logf("came to rest in %s; a session was behind for %s at most", rested, monitor.behind)
	stopUpkeep()
	w.audit()
	return w
}

// counter reads a counter of a replica: the sum over the series that have the
// label value, or over all if it is empty.
func (r *replica) counter(t testing.TB, name, label string) (sum float64) {
	t.Helper()
	families, err := r.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			named := label == ""
			for _, l := range m.GetLabel() {
				named = named || l.GetValue() == label
			}
			if named {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}
