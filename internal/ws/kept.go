package ws

import (
	"bytes"
	"container/list"
	"errors"
	"os"
	"time"

	"restante/internal/hub"
)

// maxQueued bounds the pings and pongs that wait behind a frame that is partly
// written: a client that pings and does not read gets no more pongs than that (RFC
// 6455 section 5.5.3 asks to answer the latest only).
const maxQueued = 1 << 10

// kept is what a full connection did not take: the rest of a frame that was begun,
// and control frames that came after it. Its fields are guarded by the
// connection's mu, unless they say otherwise.
type kept struct {
	conn   *conn
	rest   []byte
	queued int       // bytes added by queue
	tookAt time.Time // when the client last made room

	// Guarded by the backlog's mu.
	size  int // bytes that the backlog counts
	place *list.Element
}

// queue adds a frame behind the others.
func (k *kept) queue(frame []byte) {
	k.queued += len(frame)
	k.rest = append(k.rest, frame...)
}

// keep notes what was not written and starts the goroutine that writes it. c.mu
// must be held.
func (c *conn) keep(rest []byte) {
	h := c.transport.handler
	c.kept = &kept{conn: c, rest: bytes.Clone(rest), tookAt: time.Now(), size: len(rest)}
	for _, longest := range h.backlog.add(c.kept) {
		h.open.Go(func() { longest.transport.session.End(hub.NoRoom) })
	}
	h.open.Go(c.flush)
}

// flush writes what was kept, for as long as the client makes progress: it takes
// in something, or confirms something, once per write timeout.
func (c *conn) flush() {
	t := c.transport
	for {
		c.mu.Lock()
		rest := c.kept.rest
		c.mu.Unlock()
		err := c.SetWriteDeadline(time.Now().Add(c.timeout / 8))
		n := 0
		if err == nil {
			n, err = c.Conn.Write(rest[:min(len(rest), writeSize)])
		}
		switch done, tookAt := c.took(n); {
		case done:
			t.session.Unblocked()
			return
		case err == nil, n > 0 && errors.Is(err, os.ErrDeadlineExceeded):
			t.session.Took()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			c.giveUp(hub.Unreachable)
			return
		case time.Since(tookAt) > c.timeout && time.Since(t.session.ConfirmedAt()) > c.timeout:
			c.giveUp(hub.Stalled)
			return
		}
	}
}

// took forgets what was written. It reports whether that was everything, and else
// when the client last took something.
func (c *conn) took(n int) (done bool, tookAt time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, b := c.kept, &c.transport.handler.backlog
	if k.rest = k.rest[n:]; len(k.rest) == 0 {
		b.remove(k)
		c.kept = nil
		return true, time.Time{}
	}
	if n > 0 {
		k.tookAt = time.Now()
		b.moved(k)
	}
	return false, k.tookAt
}

// giveUp ends the connection. It is closed before what was kept is forgotten, so
// that nobody writes in the middle of a frame.
func (c *conn) giveUp(why hub.Closing) {
	_ = c.Close()
	c.mu.Lock()
	c.transport.handler.backlog.remove(c.kept)
	c.kept = nil
	c.mu.Unlock()
	c.transport.session.End(why)
}
