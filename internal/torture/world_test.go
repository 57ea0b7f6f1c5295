package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/checker"
	"restante/internal/coretest"
)

// world is one run: replicas on one database, users with their devices, and
// everything that is known about them.
type world struct {
	t    testing.TB
	seed uint64
	pool *pgxpool.Pool // the test's own connections; no fault reaches them
	chk  *checker.Checker

	options coretest.Options
	users   []*user
	calm    atomic.Bool // clients behave from now on, and no connection breaks
	mute    atomic.Bool // clients confirm nothing
	tampers tampers

	devices, kills sync.WaitGroup
	endDevices     context.CancelFunc

	// starting is held while a replica starts: a start that meets a fault is a
	// failed start, and its owner's to repeat.
	starting sync.Mutex

	mu         sync.Mutex // guards all below
	alive      []*replica
	dice       *rand.Rand // for choices that nobody's step makes
	violations int
	counts     map[string]int
	held       map[string]heldStream
}

// replica is a core and the life of its process.
type replica struct {
	*coretest.Replica
	ctx context.Context // ends when the process dies
	die context.CancelFunc
}

// user is somebody messages are for.
type user struct {
	name      string
	devices   []*device
	confirmed atomic.Int64 // highest seq that a client of the user has confirmed
}

// worldConfig sizes a world.
type worldConfig struct {
	url      string
	pool     *pgxpool.Pool
	seed     uint64
	replicas int
	users    int
	devices  int // per user
	options  coretest.Options
	dropped  float64 // how many of the wakes and of the notifications of an append are lost
	lost     float64 // how many of Postgres's replies are lost, with their connections
}

func newWorld(t testing.TB, cfg worldConfig) *world {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &world{
		t: t, seed: cfg.seed, pool: cfg.pool, chk: checker.New(), options: cfg.options, endDevices: cancel,
		dice: rand.New(rand.NewPCG(cfg.seed, 0)), counts: map[string]int{}, held: map[string]heldStream{}, tampers: newTampers(),
	}
	w.options.URL = cfg.url
	w.options.DropCommitWake, w.options.DropNotify = w.drop(cfg.dropped), w.drop(cfg.dropped)
	if lose := w.drop(cfg.lost); cfg.lost > 0 {
		w.options.LoseReply = func() bool { return !w.calm.Load() && lose() }
	}
	for range cfg.replicas {
		w.join()
	}
	for i := range cfg.users {
		// Go and Postgres must sort users alike: some differ in every collation but "C".
		u := &user{name: fmt.Sprintf("%s%02d", []string{"u", "U", "ü", " z", "日本-"}[i%5], i)}
		for j := range cfg.devices {
			u.devices = append(u.devices, newDevice(w, u, uint64(1+i*cfg.devices+j)))
		}
		w.users = append(w.users, u)
	}
	for _, u := range w.users {
		for _, d := range u.devices {
			w.devices.Go(func() { d.run(ctx) })
		}
	}
	t.Cleanup(w.end)
	return w
}

// end stops the devices and waits for the dead.
func (w *world) end() {
	w.endDevices()
	w.devices.Wait()
	w.kills.Wait()
}

// join starts a replica. Only the test's own goroutine may call it.
func (w *world) join() {
	w.t.Helper()
	w.starting.Lock()
	defer w.starting.Unlock()
	ctx, die := context.WithCancel(context.Background())
	r := &replica{Replica: coretest.Start(w.t, w.options), ctx: ctx, die: die}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alive = append(w.alive, r)
}

// kill ends a replica as a crash would: whoever talks to it hears no answer, its
// clients lose their connections, its rows stay. Another one may join.
func (w *world) kill(r *replica) {
	w.mu.Lock()
	for i, other := range w.alive {
		if other == r {
			w.alive = append(append([]*replica(nil), w.alive[:i]...), w.alive[i+1:]...)
		}
	}
	w.mu.Unlock()
	r.die()
	for _, l := range w.links() {
		if l.rep == r {
			l.sever()
		}
	}
	w.kills.Go(r.Kill)
}

// any returns a living replica.
func (w *world) any(r *rand.Rand) *replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.alive[r.IntN(len(w.alive))]
}

// replicas returns those alive.
func (w *world) replicas() []*replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*replica(nil), w.alive...)
}

// links returns the connections of this moment.
func (w *world) links() (open []*link) {
	for _, u := range w.users {
		for _, d := range u.devices {
			if l := d.link(); l != nil {
				open = append(open, l)
			}
		}
	}
	return open
}

// drop returns a function that says yes with probability p.
func (w *world) drop(p float64) func() bool {
	return func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.dice.Float64() < p
	}
}

// violate reports that a promise was broken.
func (w *world) violate(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.violations++; w.violations <= 20 {
		w.t.Errorf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
	}
}

// count counts something for the log at the end.
func (w *world) count(what string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what] += n
}

// every calls f until ctx ends.
func every(ctx context.Context, period time.Duration, f func()) {
	for pause(period, ctx.Done()) {
		f()
	}
}
