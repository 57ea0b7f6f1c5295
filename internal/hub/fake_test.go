package hub_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/events"
	"restante/internal/hub"
)

// The session's behaviour over time is tested in a bubble of testing/synctest,
// with a log in memory: there the clock jumps as soon as everybody waits.

// fakeLog is a log and a registry of sessions.
type fakeLog struct {
	mu       sync.Mutex // guards all below
	streams  map[string][]events.Event
	acked    map[string]int64
	rows     map[string]events.Session
	watched  map[string]int
	reads    int
	bytes    int           // of payload read
	page     int           // events per page; 0 for all
	failing  int           // reads that are still to fail
	noAttach error         // what Attach fails with
	noDetach error         // what Detach fails with
	attaches int           // sessions attached, each time
	hold     chan struct{} // if set, Attach waits for it
	left     bool
}

func newFakeLog() *fakeLog {
	return &fakeLog{streams: map[string][]events.Event{}, acked: map[string]int64{}, rows: map[string]events.Session{}, watched: map[string]int{}}
}

// append adds n events to a user's stream and returns its head.
func (l *fakeLog) append(user string, n int) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		seq := int64(len(l.streams[user]) + 1)
		l.streams[user] = append(l.streams[user], events.Event{
			Seq: seq, Payload: fmt.Appendf(nil, "%d", seq), CreatedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
		})
	}
	return int64(len(l.streams[user]))
}

func (l *fakeLog) ReadUpTo(ctx context.Context, user string, after, _ int64, maxBytes int) (events.Page, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads++
	if l.failing > 0 {
		l.failing--
		return events.Page{}, events.ErrUnavailable
	}
	if ctx.Err() != nil {
		return events.Page{}, ctx.Err()
	}
	size := 0
	page := events.Page{Through: max(after, int64(len(l.streams[user])))}
	for _, e := range l.streams[user][min(after, int64(len(l.streams[user]))):] {
		if !e.ExpiresAt.After(time.Now()) {
			continue
		}
		page.Events = append(page.Events, e)
		l.bytes += len(e.Payload)
		size += len(e.Payload)
		if len(page.Events) == l.page || maxBytes > 0 && size >= maxBytes {
			page.Through = e.Seq
			break
		}
	}
	return page, nil
}

func (l *fakeLog) Ack(user string, seq int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[user] = max(l.acked[user], seq)
}

func (l *fakeLog) Watch(user string)   { l.watch(user, 1) }
func (l *fakeLog) Unwatch(user string) { l.watch(user, -1) }

func (l *fakeLog) watch(user string, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watched[user] += n
}

func (l *fakeLog) Attach(ctx context.Context, sessions ...events.Session) (map[string]events.Position, error) {
	l.mu.Lock()
	hold := l.hold
	l.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, events.ErrUnavailable
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.noAttach != nil {
		return nil, l.noAttach
	}
	at := map[string]events.Position{}
	for _, s := range sessions {
		l.attaches++
		l.rows[s.ID] = s
		at[s.UserID] = events.Position{Acked: l.acked[s.UserID], Head: int64(len(l.streams[s.UserID]))}
	}
	return at, nil
}

func (l *fakeLog) Detach(_ context.Context, ids ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.noDetach != nil {
		return l.noDetach
	}
	for _, id := range ids {
		delete(l.rows, id)
	}
	return nil
}

func (l *fakeLog) Attached(_ context.Context, replicaID string) (ids []string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, s := range l.rows {
		if s.ReplicaID == replicaID {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (l *fakeLog) Owed(_ context.Context, replicaID string) (map[string]events.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	owed := map[string]events.Position{}
	for _, s := range l.rows {
		if at := (events.Position{Acked: l.acked[s.UserID], Head: int64(len(l.streams[s.UserID]))}); s.ReplicaID == replicaID && at.Head > at.Acked {
			owed[s.UserID] = at
		}
	}
	return owed, nil
}

func (l *fakeLog) Behind(_ context.Context, sightings []events.Sighting) (behind []events.Head, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range sightings {
		if head := int64(len(l.streams[s.UserID])); head > s.Position || l.acked[s.UserID] < s.Confirmed {
			behind = append(behind, events.Head{UserID: s.UserID, Seq: head})
		}
	}
	return behind, nil
}

func (l *fakeLog) Leave(ctx context.Context, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left = ctx.Err() == nil
	return ctx.Err()
}

// with changes or reads the log under its lock.
func (l *fakeLog) with(do func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do()
}

// fakeConn is a client's connection. What a test does not set happens at once and
// succeeds; pings are answered, and nothing is confirmed.
type fakeConn struct {
	session *hub.Session
	onSend  func(hub.Batch) error
	onPing  func() error

	mu      sync.Mutex // guards all below
	batches []hub.Batch
	pings   []time.Time
	closed  []hub.Closing
	ended   time.Time
}

func (c *fakeConn) Send(b hub.Batch) error {
	c.mu.Lock()
	c.batches = append(c.batches, b)
	c.mu.Unlock()
	if c.onSend != nil {
		return c.onSend(b)
	}
	return nil
}

func (c *fakeConn) Ping() error {
	c.mu.Lock()
	c.pings = append(c.pings, time.Now())
	c.mu.Unlock()
	if c.onPing != nil {
		return c.onPing()
	}
	c.session.Heard()
	return nil
}

func (c *fakeConn) Close(why hub.Closing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = append(c.closed, why)
	c.ended = time.Now()
}

// last returns how far the client was sent, and how many messages that were.
func (c *fakeConn) last() (through int64, messages int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.batches {
		if b.After != through && through != 0 {
			return -1, -1 // a hole or a repetition
		}
		through = b.Through
		messages += len(b.Events)
	}
	return through, messages
}

func (c *fakeConn) closing() (hub.Closing, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.closed) == 0 {
		return hub.Closing{}, false
	}
	return c.closed[0], true
}

func (c *fakeConn) pinged() []time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.pings)
}

// confirms makes the client confirm everything it is sent.
func (c *fakeConn) confirms(b hub.Batch) error { return c.session.Ack(b.Through) }

// bubble is a hub that runs on a log in memory, with the clock of the bubble.
type bubble struct {
	*hub.Hub
	log  *fakeLog
	t    *testing.T
	stop func() // drains, and returns when Run has
}

// inBubble runs a test on a running hub. The sweep is off unless the test turns it on.
func inBubble(t *testing.T, change func(*hub.Config), test func(t *testing.T, b *bubble)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg := hub.Config{
			ReplicaID: "one", Epoch: "e1",
			Beat:  func(context.Context) (events.Beat, error) { return events.Beat{}, nil },
			Lease: 12 * time.Second, PingEvery: 25 * time.Second, PongTimeout: 10 * time.Second,
			AckTimeout: 30 * time.Second, MaxAge: 100 * time.Hour, MaxPerUser: 10,
			WindowMessages: 1000, WindowBytes: 1 << 20,
			Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		}
		if change != nil {
			change(&cfg)
		}
		log := newFakeLog()
		b := &bubble{Hub: hub.New(cfg, log, log), log: log, t: t}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		b.stop = sync.OnceFunc(func() {
			b.Drain(0)
			stop()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
		t.Cleanup(func() {
			b.stop()
			if err := b.Close(context.Background()); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		synctest.Wait()
		test(t, b)
	})
}

// connect opens and starts a session.
func (b *bubble) connect(user string, set ...func(*fakeConn)) *fakeConn {
	b.t.Helper()
	s, err := b.Open(b.t.Context(), user, "test")
	if err != nil {
		b.t.Fatal(err)
	}
	c := &fakeConn{session: s}
	for _, do := range set {
		do(c)
	}
	s.Start(c)
	return c
}

// confirming is a client that confirms everything at once.
func confirming(c *fakeConn) { c.onSend = c.confirms }

// appendAndWake appends n events and wakes, as a commit does.
func (b *bubble) appendAndWake(user string, n int) int64 {
	head := b.log.append(user, n)
	b.Wake(hub.FromCommit, []events.Head{{UserID: user, Seq: head}})
	return head
}

// pass lets time pass, and then everybody finish what they do.
func pass(d time.Duration) {
	time.Sleep(d) // in the bubble: nobody waits for real
	synctest.Wait()
}
