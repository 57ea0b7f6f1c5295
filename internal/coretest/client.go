package coretest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
)

// Received is something a client was sent: a message, or a gap if To is set.
type Received struct {
	Seq     int64 // of a message; the first one missing, of a gap
	To      int64 // the last one missing, of a gap
	Payload string
}

// Client is a connection of a user, in memory. It implements hub.Transport.
type Client struct {
	Session *hub.Session
	UserID  string
	cfg     ClientConfig

	mu       sync.Mutex // guards all below
	received []Received
	last     int64
	changed  chan struct{} // closed and replaced whenever something arrives or ends
	closing  *hub.Closing
}

// ClientConfig says how a client behaves; the zero value confirms everything at once.
type ClientConfig struct {
	// Hold, if set and true for a seq, keeps the client from confirming a batch
	// that ends with it.
	Hold func(seq int64) bool
	// Break, if set and true, fails the write of a batch after it has arrived.
	Break func() bool
	// OnReceive is told everything that arrives, in order, before it is confirmed.
	OnReceive func(Received)
	// OnConfirm is told what the client confirms, before it does.
	OnConfirm func(seq int64)
}

var errBroken = errors.New("the connection broke")

// Open connects a user to a replica.
func Open(ctx context.Context, r *Replica, user string, cfg ClientConfig) (*Client, error) {
	session, err := r.Hub.Open(ctx, user, "test")
	if err != nil {
		return nil, err
	}
	c := &Client{Session: session, UserID: user, cfg: cfg, changed: make(chan struct{})}
	session.Start(c)
	return c, nil
}

// Connect is Open for a test that cannot go on without it; the session is ended
// with the test.
func Connect(t testing.TB, r *Replica, user string, cfg ClientConfig) *Client {
	t.Helper()
	c, err := Open(t.Context(), r, user, cfg)
	if err != nil {
		t.Fatalf("connect %s: %v", user, err)
	}
	t.Cleanup(c.Disconnect)
	return c
}

// Disconnect ends the session from the client's side.
func (c *Client) Disconnect() { c.Session.End(hub.ByClient) }

// Send implements hub.Transport.
func (c *Client) Send(batch hub.Batch) error {
	c.mu.Lock()
	next := batch.After + 1
	for _, e := range batch.Events {
		c.gap(next, e.Seq-1)
		c.arrive(Received{Seq: e.Seq, Payload: string(e.Payload)})
		next = e.Seq + 1
	}
	c.gap(next, batch.Through)
	c.last = batch.Through
	c.signal()
	c.mu.Unlock()

	if c.cfg.Break != nil && c.cfg.Break() {
		return errBroken
	}
	if n := len(batch.Events); n > 0 {
		if seq := batch.Events[n-1].Seq; c.cfg.Hold == nil || !c.cfg.Hold(seq) {
			return c.Confirm(seq)
		}
	}
	return nil
}

// Confirm acknowledges everything up to seq.
func (c *Client) Confirm(seq int64) error {
	if c.cfg.OnConfirm != nil {
		c.cfg.OnConfirm(seq)
	}
	return c.Session.Ack(seq)
}

func (c *Client) gap(from, to int64) {
	if from <= to {
		c.arrive(Received{Seq: from, To: to})
	}
}

func (c *Client) arrive(r Received) {
	c.received = append(c.received, r)
	if c.cfg.OnReceive != nil {
		c.cfg.OnReceive(r)
	}
}

func (c *Client) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Ping implements hub.Transport.
func (c *Client) Ping() error {
	c.Session.Heard()
	return nil
}

// Close implements hub.Transport.
func (c *Client) Close(why hub.Closing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closing = &why
	c.signal()
}

// Closed returns why the session ended, nil while it lives.
func (c *Client) Closed() *hub.Closing {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closing
}

// Received returns what has arrived so far.
func (c *Client) Received() []Received {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Received(nil), c.received...)
}

// Position returns how far the client has got.
func (c *Client) Position() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Reaches waits until the client has got everything up to seq.
func (c *Client) Reaches(seq int64, within time.Duration) bool {
	timeout := time.NewTimer(within)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		last, changed := c.last, c.changed
		c.mu.Unlock()
		if last >= seq {
			return true
		}
		select {
		case <-changed:
		case <-timeout.C:
			return false
		}
	}
}

// Post appends one message, with text as its payload, and returns its seq.
func (r *Replica) Post(t testing.TB, user, text string) int64 {
	t.Helper()
	receipts, err := r.Log.Append(t.Context(), []events.Message{{
		UserID: user, Payload: []byte(`"` + text + `"`), Publisher: "test", TTL: time.Hour,
	}})
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return receipts[0].Seq
}
