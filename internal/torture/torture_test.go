package torture

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"restante/internal/coretest"
	"restante/internal/hub"
	"restante/internal/testdb"
)

const (
	stepPace   = 8 * time.Millisecond
	lease      = 1500 * time.Millisecond
	sweepEvery = 300 * time.Millisecond
	// A job that is still running after this long has lost its worker, whose
	// timeout is 5 s.
	longestJob = 6 * time.Second
)

// step is something that may happen next, weight times in 10,000.
type step struct {
	name   string
	weight int
	do     func(*run, *rand.Rand)
}

// run is one torture.
type run struct {
	*world
	publishers []*publisher
	faults     sync.WaitGroup
	tickets    chan struct{} // bounds the faults that happen together
}

// fault makes a step of a fault: it happens beside the steps that follow.
func fault(f func(*world, *rand.Rand)) func(*run, *rand.Rand) {
	return func(t *run, r *rand.Rand) {
		t.tickets <- struct{}{}
		t.faults.Go(func() {
			defer func() { <-t.tickets }()
			f(t.world, r)
		})
	}
}

func steps() []step {
	return []step{
		{"post one", 3700, (*run).postOne},
		{"post a burst to one user", 500, (*run).postBurst},
		{"post to many users", 900, (*run).postMany},
		{"post and give up", 200, (*run).postImpatient},
		{"post with a bad one among them", 150, (*run).postPoisoned},
		{"device comes or goes", 1700, (*run).toggle},
		{"connection breaks", 250, (*run).breakLink},
		{"client confirms what it held back", 600, (*run).confirm},
		{"stream held", 250, fault(holdStream)},
		{"commits delayed", 100, fault(delayCommits)},
		{"acks forgotten", 350, fault(forgetAcks)},
		{"job duplicated", 350, fault(duplicateJob)},
		{"job cancelled", 350, fault(loseJob)},
		{"backends killed", 90, fault(killBackends)},
		{"lease lapsed", 50, fault(loseLease)},
		{"living replica reaped", 50, fault(reapLiving)},
		{"unlogged tables emptied", 20, fault(emptyUnlogged)},
		{"replica killed", 15, (*run).replace},
	}
}

// TestTorture proves I1 to I6 under everything that may go wrong; see the
// package's doc.
func TestTorture(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	w := newWorld(t, worldConfig{
		pool: db.Pool, url: db.URL, seed: drawSeed(t), replicas: 3, users: 48, devices: 2, dropped: 0.3, lost: 0.004,
		options: coretest.Options{
			DeliverDelay: 500 * time.Millisecond, Sweep: sweepEvery, Lease: lease, AckTimeout: 3 * time.Second, WindowSize: 64,
		},
	})
	publishers, stopPublishing := w.publishers(16)
	stopUpkeep := w.keepUp(longestJob)
	monitor := w.watch(rules{behindAtMost: behindAtMost})

	tortured := &run{world: w, publishers: publishers, tickets: make(chan struct{}, 6)}
	start := time.Now()
	tortured.take(*stepsFlag)
	tortured.faults.Wait()
	w.kills.Wait()
	t.Logf("%d steps in %s", *stepsFlag, time.Since(start))

	// What the last faults leave has to be cured under the sockets that are open
	// now: nobody reconnects.
	start = time.Now()
	tortured.lastWords(stopPublishing)
	emptyUnlogged(w, nil)
	w.rest(time.Minute)
	w.presence(10 * time.Second)
	// Who goes leaves no row behind, and who comes finds everything.
	for i, u := range w.users {
		u.devices[0].want(i%2 == 0)
		u.devices[1].want(i%3 == 0)
	}
	w.rest(time.Minute)
	w.presence(10 * time.Second)
	for _, u := range w.users {
		u.devices[0].want(true)
	}
	w.rest(time.Minute)
	rested := time.Since(start)
	monitor.end()
	stopUpkeep()
	t.Logf("came to rest in %s; %d polls; a lane was parked under a live session for %s at most, a session was behind for %s at most",
		rested, monitor.polls, monitor.parked, monitor.behind)
	w.audit()
}

// lastWords posts one more message to everybody, some of whose wakes are lost.
// Clients confirm it only when every lease has lapsed and the jobs have parked
// their users, so that the replicas, when their hearts beat again, find lanes
// that are parked, sessions that live, and nothing pending; or, where the write
// of the ack is lost, something that no client will confirm once more.
func (t *run) lastWords(stopPublishing func()) {
	t.mute.Store(true)
	for i, u := range t.users {
		r := rand.New(rand.NewPCG(t.seed, uint64(2+i)))
		t.post(r, post{users: []*user{u}, keyed: true})
	}
	stopPublishing()
	for _, r := range t.replicas() {
		if release := t.stopHeart(r); release != nil {
			defer release()
		}
	}
	parked := 0
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); pause(monitorEvery) {
		rows, err := t.snapshot(context.Background())
		if err != nil {
			t.violate("no last words: %v", err)
			return
		}
		parked = 0
		for _, r := range rows {
			if r.Lane == 2 {
				parked++
			}
		}
	}
	t.mute.Store(false)
	t.calm.Store(true)
	for _, l := range t.links() {
		l.catchUp()
	}
	pause(200 * time.Millisecond) // for the acks to be written
	for i, u := range t.users {
		if i%2 == 0 {
			t.forget(u, 1)
		}
	}
	t.count("lanes parked at the last words", parked)
}

// take makes n steps. The seed determines which, and all that each chooses.
func (t *run) take(n int) {
	all := steps()
	total := 0
	for _, s := range all {
		total += s.weight
	}
	draw := rand.New(rand.NewPCG(t.seed, 1))
	for range n {
		pick := draw.IntN(total)
		r := rand.New(rand.NewPCG(draw.Uint64(), 0))
		for _, s := range all {
			if pick -= s.weight; pick < 0 {
				t.count("steps: "+s.name, 1)
				s.do(t, r)
				break
			}
		}
		pause(time.Duration(draw.Int64N(int64(2 * stepPace))))
	}
}

func (t *run) user(r *rand.Rand) *user { return t.users[r.IntN(len(t.users))] }

// post hands a request to a publisher, and waits if that one has enough to do.
func (t *run) post(r *rand.Rand, p post) {
	p.r = r
	p.keyed = p.keyed || oneIn(r, 3)
	t.publishers[r.IntN(len(t.publishers))].queue <- p
}

func (t *run) postOne(r *rand.Rand) { t.post(r, post{users: []*user{t.user(r)}}) }

func (t *run) postBurst(r *rand.Rand) {
	p := post{}
	n := 1 + r.IntN(30)
	if oneIn(r, 15) {
		n = 300 // more than one page of the log
	}
	for u := t.user(r); len(p.users) < n; {
		p.users = append(p.users, u)
	}
	t.post(r, p)
}

func (t *run) postMany(r *rand.Rand) {
	p := post{}
	for range 2 + r.IntN(30) {
		p.users = append(p.users, t.user(r))
	}
	t.post(r, p)
}

func (t *run) postImpatient(r *rand.Rand) {
	t.post(r, post{users: []*user{t.user(r)}, impatient: between(r, 100*time.Microsecond, 20*time.Millisecond), keyed: oneIn(r, 2)})
}

func (t *run) postPoisoned(r *rand.Rand) {
	t.post(r, post{users: []*user{t.user(r), t.user(r)}, poisoned: true})
}

// toggle makes a device come or go. A third of the users have a first device that
// comes and stays, and some never have a second one.
func (t *run) toggle(r *rand.Rand) {
	i := r.IntN(len(t.users))
	d := t.users[i].devices[r.IntN(2)]
	steady := i%3 == 0 && d == t.users[i].devices[0]
	d.want(steady || !d.wanted.Load() && !(i%4 == 1 && d == t.users[i].devices[1]))
}

func (t *run) link(r *rand.Rand) *link {
	if open := t.links(); len(open) > 0 {
		return open[r.IntN(len(open))]
	}
	return nil
}

func (t *run) breakLink(r *rand.Rand) {
	if l := t.link(r); l != nil {
		l.session.End(hub.Unreachable)
	}
}

func (t *run) confirm(r *rand.Rand) {
	if l := t.link(r); l != nil {
		l.catchUp()
	}
}

// replace kills a replica; a new one joins.
func (t *run) replace(r *rand.Rand) {
	t.kill(t.any(r))
	t.join()
}
