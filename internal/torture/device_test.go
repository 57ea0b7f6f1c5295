package torture

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"restante/internal/checker"
	"restante/internal/events"
	"restante/internal/hub"
)

// device is one of a user's clients. While it is wanted online it connects, to
// any replica, and again whenever it is cut off.
type device struct {
	w       *world
	user    *user
	r       *rand.Rand // the device's own goroutine's
	wanted  atomic.Bool
	changed chan struct{} // has room for one: wanted may have changed

	mu   sync.Mutex // guards open
	open *link
}

func newDevice(w *world, u *user, number uint64) *device {
	return &device{w: w, user: u, r: rand.New(rand.NewPCG(w.seed, number<<32)), changed: make(chan struct{}, 1)}
}

// want says whether the device is to be online.
func (d *device) want(online bool) {
	d.wanted.Store(online)
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

func (d *device) link() *link {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open
}

func (d *device) set(l *link) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open = l
}

// run lives the device's life until ctx ends.
func (d *device) run(ctx context.Context) {
	for ctx.Err() == nil {
		if !d.wanted.Load() {
			select {
			case <-d.changed:
			case <-ctx.Done():
			}
			continue
		}
		l := d.connect(ctx)
		if l == nil {
			pause(between(d.r, 20*time.Millisecond, 200*time.Millisecond), ctx.Done())
			continue
		}
		d.set(l)
		for d.wanted.Load() && ctx.Err() == nil && !l.isOver() {
			select {
			case <-l.gone:
			case <-d.changed:
			case <-ctx.Done():
			}
		}
		d.set(nil)
		l.session.End(hub.ByClient)
		l.over()
		pause(between(d.r, 0, 100*time.Millisecond), ctx.Done())
	}
}

// connect opens a connection, or returns nil.
func (d *device) connect(ctx context.Context) *link {
	rep := d.w.any(d.r)
	conn := d.w.chk.Connect(d.user.name, checker.FromAcked)
	session, err := rep.Hub.Open(ctx, d.user.name, "test")
	if err != nil {
		conn.Closed()
		return nil
	}
	position := session.Position()
	conn.Hello(position.Head, position.Acked)
	l := &link{
		d: d, rep: rep, conn: conn, session: session, since: time.Now(), gone: make(chan struct{}),
		r: rand.New(rand.NewPCG(d.r.Uint64(), 0)), last: position.Acked, confirmed: position.Acked,
	}
	session.Start(l)
	if rep.ctx.Err() != nil {
		l.sever()
	}
	return l
}

// link is one connection of a device. It implements hub.Transport.
type link struct {
	d       *device
	rep     *replica
	conn    *checker.Conn
	session *hub.Session
	since   time.Time

	once sync.Once
	gone chan struct{} // closed when the connection is

	mu        sync.Mutex // guards all below; held while something arrives
	r         *rand.Rand
	ended     bool
	last      int64 // received or given up
	confirmed int64

	parkedSince, behindSince time.Time // the monitor's only
}

var errGone = errors.New("the client is gone")

// Close implements hub.Transport.
func (l *link) Close(hub.Closing) { l.sever() }

// Ping implements hub.Transport.
func (l *link) Ping() error {
	if l.isOver() {
		return errGone
	}
	l.session.Heard()
	return nil
}

func (l *link) sever() { l.once.Do(func() { close(l.gone) }) }

func (l *link) isOver() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
}

// over ends the client's side: nothing is read from the connection any more.
func (l *link) over() {
	l.sever()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	l.conn.Closed()
}

// Send implements hub.Transport: the client reads the batch, unless it breaks in
// the middle, and confirms all, some or nothing of it.
func (l *link) Send(batch hub.Batch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	calm := l.d.w.calm.Load()
	if !calm && oneIn(l.r, 50) { // a slow reader
		pause(between(l.r, 10*time.Millisecond, 200*time.Millisecond), l.gone)
	}
	if l.ended || l.isOver() {
		return errGone
	}
	if !calm && len(batch.Events) > 0 && oneIn(l.r, 30) {
		batch = l.fill(batch)
	}
	breakAt := -1
	if !calm && oneIn(l.r, 200) {
		breakAt = l.r.IntN(len(batch.Events) + 1)
	}
	next := batch.After + 1
	for i, e := range batch.Events {
		if i == breakAt {
			return errGone
		}
		l.gap(next, e.Seq-1)
		m, _, _ := l.d.w.chk.Parse(e.Payload)
		l.conn.Received(e.Seq, m)
		l.last, next = e.Seq, e.Seq+1
	}
	l.gap(next, batch.Through)
	l.last = max(l.last, batch.Through)
	if breakAt >= 0 {
		return errGone
	}
	n := len(batch.Events)
	if n == 0 || l.d.w.mute.Load() {
		return nil
	}
	seq := batch.Events[n-1].Seq
	if !calm {
		switch l.r.IntN(20) {
		case 0, 1: // holds the ack back
			return nil
		case 2:
			seq = batch.Events[l.r.IntN(n)].Seq
		}
	}
	return l.confirm(seq)
}

// fill is a connection that gets full in the middle of a batch: the client is sent
// the part that is returned, and the rest when there is room again.
func (l *link) fill(batch hub.Batch) hub.Batch {
	n := l.r.IntN(len(batch.Events))
	part := hub.Batch{After: batch.After, Page: events.Page{Events: batch.Events[:n], Through: batch.After}}
	if n > 0 {
		part.Through = batch.Events[n-1].Seq
	}
	l.session.Blocked(part)
	time.AfterFunc(between(l.r, time.Millisecond, 300*time.Millisecond), l.session.Unblocked)
	l.d.w.count("connections full", 1)
	return part
}

// gap takes the announcement that from..to have expired; the checker knows which
// have.
func (l *link) gap(from, to int64) {
	if from <= to {
		l.conn.Gap(from, to)
		l.d.w.count("gaps", 1)
	}
}

// confirm acknowledges everything up to seq. l.mu must be held.
func (l *link) confirm(seq int64) error {
	l.conn.Confirmed(seq)
	l.confirmed = max(l.confirmed, seq)
	for {
		was := l.d.user.confirmed.Load()
		if was >= seq || l.d.user.confirmed.CompareAndSwap(was, seq) {
			break
		}
	}
	if err := l.session.Ack(seq); err != nil {
		l.d.w.violate("user %s: confirmed %d, which was received, and was told: %v", l.d.user.name, seq, err)
		return err
	}
	return nil
}

// catchUp confirms what was held back.
func (l *link) catchUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended && l.last > 0 {
		_ = l.confirm(l.last) // reported where it happens
	}
}

// state tells the monitor how far the link is, and whether it keeps acks back.
func (l *link) state() (last int64, holding, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last, l.confirmed < l.last, !l.ended && !l.isOver()
}
