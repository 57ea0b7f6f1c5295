package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"restante/internal/checker"
)

// openers is how many connections are opened at the same time.
const openers = 32

// load is one run: its publishers, its clients, what they saw, and the checker
// that watches all of it.
type load struct {
	target  target
	postTo  []string // addresses of the replicas that publishers post to
	users   int
	clients int // of the users, those who connect: the first so many
	apart   int // of the users, the last so many: only a trouble posts to them
	size    int // of a payload in bytes

	check *checker.Checker
	began time.Time // all times of the run are counted from here

	publishers                   atomic.Uint32 // made so far
	posted, accepted, received   atomic.Int64
	refused, unknown, reconnects atomic.Int64
	connected                    atomic.Int64 // clients, now
	reopened                     atomic.Int64 // connections that took the place of a lost one
	hold                         atomic.Bool  // clients confirm nothing
	windows                      atomic.Pointer[[]*window]

	mu     sync.Mutex // guards errors
	errors []string   // the first few
}

func newLoad(t target, postTo []string, users, size int) *load {
	return &load{target: t, postTo: postTo, users: users, clients: users, size: size, check: checker.New(), began: time.Now()}
}

// now is the run's clock in nanoseconds.
func (l *load) now() int64 { return int64(time.Since(l.began)) }

// through is how many messages have come as far as they will: to a client, or
// where not every user has one, into the log.
func (l *load) through() int64 {
	if l.clients < l.users {
		return l.accepted.Load()
	}
	return l.received.Load()
}

// window is a stretch of a run that is measured. What was due in it counts,
// whenever it is answered or arrives.
type window struct {
	from, to                    int64 // on the run's clock
	delivery, answers, lateness histogram
	failed                      atomic.Int64 // posts that were not answered 202
}

// measure opens a window of d.
func (l *load) measure(d time.Duration) *window {
	now := l.now()
	w := &window{from: now, to: now + int64(d)}
	var windows []*window
	if before := l.windows.Load(); before != nil {
		windows = slices.Clone(*before)
	}
	windows = append(windows, w)
	l.windows.Store(&windows)
	return w
}

// within returns the window that counts what was sent at this time, nil if none.
func (l *load) within(sent int64) *window {
	windows := l.windows.Load()
	if windows == nil {
		return nil
	}
	for _, w := range slices.Backward(*windows) {
		if w.from <= sent && sent < w.to {
			return w
		}
	}
	return nil
}

// troubled reports whether only a trouble posts to this user: nothing of it is measured.
func (l *load) troubled(user int) bool { return user >= l.users-l.apart }

// anybody picks one of the users that no trouble has for itself.
func (p *publisher) anybody() int { return p.random.IntN(p.users - p.apart) }

// complain keeps the first few errors for the report.
func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.errors) < 5 {
		l.errors = append(l.errors, fmt.Sprintf(format, args...))
	}
}

// begin tells the checker what users have in the log from before.
func (l *load) begin(ctx context.Context) error {
	streams, err := l.target.streams(ctx, l.users)
	for _, s := range streams {
		if s.head > 0 {
			l.check.Began(userName(s.user), s.head, s.acked)
		}
	}
	return err
}

// publisher posts one message after the other over one connection.
type publisher struct {
	*load
	id     uint32
	n      uint64
	conn   poster
	random *rand.Rand
	text   []byte // payload, reused
}

// publisher makes the i-th of a crowd, with a number that no other of the run has.
func (l *load) publisher(i int) *publisher {
	p := &publisher{load: l, id: l.publishers.Add(1), random: rand.New(rand.NewPCG(uint64(i), 0))}
	p.conn.addr = l.postTo[i%len(l.postTo)]
	return p
}

// post sends one message that was meant to be sent at this time and waits for
// the answer. It fails only with the context.
func (p *publisher) post(ctx context.Context, user int, sent int64) error {
	p.n++
	p.text = checker.AppendPayload(p.text[:0], p.id, p.n, sent, p.size)
	m := checker.Message{Publisher: p.id, N: p.n, Digest: p.check.Digest(p.text)}
	name := userName(user)
	p.conn.request = p.target.request(p.conn.request[:0], user, p.text)

	p.check.Posted(name, m)
	p.posted.Add(1)
	status, body, err := p.conn.post()
	if err == nil && status == http.StatusAccepted {
		var seq int64
		if seq, err = p.target.answer(body); err == nil {
			p.check.Accepted(name, m, seq)
			p.accepted.Add(1)
			if w := p.within(sent); w != nil && !p.troubled(user) {
				w.answers.record(time.Duration(p.now() - sent))
			}
			return ctx.Err()
		}
	}
	if p.troubled(user) { // it is meant to fail
		p.check.Unknown(name, m)
		return pause(ctx, 20*time.Millisecond)
	}
	if w := p.within(sent); w != nil {
		w.failed.Add(1)
	}
	p.failed(name, m, status, body, err)
	return pause(ctx, 20*time.Millisecond) // what just failed would fail again at once
}

// failed notes a message that was not answered 202.
func (p *publisher) failed(name string, m checker.Message, status int, body []byte, err error) {
	switch {
	case err != nil:
		p.check.Unknown(name, m)
		p.unknown.Add(1)
		p.complain("post: %v", err)
	case status/100 == 4:
		p.check.Refused(name, m)
		p.refused.Add(1)
		p.complain("post: %d: %.200s", status, body)
	default: // a 5xx need not mean that nothing was written
		p.check.Unknown(name, m)
		p.unknown.Add(1)
		p.complain("post: %d: %.200s", status, body)
	}
}

// client is one user's connection.
type client struct {
	*load
	user   int
	buffer int
	socket *socket
	seen   *checker.Conn
	ack    []byte
}

// clients are connections that are read in the background until stopped.
type clients struct {
	stop func()
	done sync.WaitGroup
}

// close ends all connections and waits until nobody reads any more.
func (c *clients) close() {
	c.stop()
	c.done.Wait()
}

// connect opens a connection for each user with a client and reads it until they are
// closed. When one fails while opening, all are closed.
func (l *load) connect(ctx context.Context, buffer int) (*clients, error) {
	reading, stop := context.WithCancel(ctx)
	cs := &clients{stop: stop}
	opening, fail := context.WithCancelCause(reading)
	defer fail(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for range openers {
		group.Go(func() {
			for opening.Err() == nil {
				user := int(next.Add(1)) - 1
				if user >= l.clients {
					return
				}
				c := &client{load: l, user: user, buffer: buffer}
				if err := c.open(opening); err != nil {
					fail(fmt.Errorf("connect %s: %w", userName(user), err))
					return
				}
				cs.done.Go(func() { c.run(reading) })
			}
		})
	}
	group.Wait()
	if opening.Err() != nil {
		cs.close()
		return nil, context.Cause(opening)
	}
	return cs, nil
}

func (c *client) open(ctx context.Context) (err error) {
	c.seen = c.check.Connect(userName(c.user), checker.FromAcked)
	if c.socket, err = c.target.open(ctx, c.user, c.buffer); err != nil {
		c.seen.Closed()
		return err
	}
	c.connected.Add(1)
	return nil
}

// run reads until the context ends and reconnects when the server lets go.
func (c *client) run(ctx context.Context) {
	for {
		err := c.read(ctx)
		c.socket.conn.Close()
		c.seen.Closed()
		c.connected.Add(-1)
		if ctx.Err() != nil {
			return
		}
		c.reconnects.Add(1)
		c.complain("connection of %s: %v", userName(c.user), err)
		for {
			if pause(ctx, 100*time.Millisecond+rand.N(400*time.Millisecond)) != nil {
				return
			}
			if err := c.open(ctx); err == nil {
				c.reopened.Add(1)
				break
			}
		}
	}
}

// read handles frames until the connection ends. It confirms once for all that
// one read from the socket brought.
func (c *client) read(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { c.socket.conn.SetReadDeadline(time.Now()) })
	defer stop()
	last := frame{kind: frameOther} // the last that has a seq, until it is confirmed
	for {
		text, err := c.socket.next()
		if err != nil {
			return err
		}
		f, err := c.target.parse(c.user, text)
		if err != nil {
			return err
		}
		switch f.kind {
		case frameHello:
			c.seen.Hello(f.seq, f.acked)
			continue
		case frameBye:
			return errors.New("bye: " + f.reason)
		case frameGap:
			c.seen.Gap(f.seq, f.to)
			f.seq = f.to
		case frameMessage:
			m, sent, ok := c.check.Parse(f.payload)
			c.seen.Received(f.seq, m)
			c.received.Add(1)
			if w := c.within(sent); w != nil && ok && !c.troubled(c.user) {
				w.delivery.record(time.Duration(c.now() - sent))
			}
		}
		if f.kind != frameOther {
			last = f
		}
		if c.socket.in.Buffered() > 0 || c.hold.Load() || last.kind == frameOther {
			continue
		}
		c.seen.Confirmed(last.seq)
		c.ack = c.target.confirm(c.ack[:0], last)
		last = frame{kind: frameOther}
		if err := c.socket.write(opText, c.ack); err != nil {
			return err
		}
	}
}

// How long a run may take to come to rest once nothing is posted any more.
const (
	arriveWithin = 30 * time.Second
	settleWithin = 5 * time.Second
)

// finish waits until all has arrived and been acknowledged, asks the database
// what it holds, and returns the verdict, and how many users have acknowledged
// what the database does not know of. Clients must still be connected.
func (l *load) finish(ctx context.Context) (report checker.Report, unsettled int, err error) {
	arrived := time.Now().Add(arriveWithin)
	for l.check.Waiting() > 0 && time.Now().Before(arrived) { // what is late is reported as stranded
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return report, 0, err
		}
	}
	if err := l.settled(ctx); err != nil {
		return report, 0, err
	}
	streams, err := l.target.streams(ctx, l.users)
	if err != nil {
		return report, 0, err
	}
	for _, s := range streams {
		l.check.Stream(userName(s.user), s.head, s.acked)
		if s.user < l.clients && s.acked < s.head {
			unsettled++
		}
	}
	return l.check.Report(), unsettled, nil
}

// settled waits until the database has every acknowledgement, or for
// settleWithin: one may be missing, the promise is only that none is invented.
func (l *load) settled(ctx context.Context) error {
	for until := time.Now().Add(settleWithin); ; {
		asked := time.Now()
		behind, err := l.target.behind(ctx, l.clients)
		if err != nil || !behind || asked.After(until) {
			return err
		}
		// What is measured has to answer this too: for a tenth of the time at most.
		if err := pause(ctx, max(10*time.Millisecond, 9*time.Since(asked))); err != nil {
			return err
		}
	}
}

// pause waits for d or until the context ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
