package hub_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
)

// appendLarge appends n events of a size, and wakes.
func (b *bubble) appendLarge(user string, n, size int) {
	b.log.append(user, n)
	b.log.with(func() {
		list := b.log.streams[user]
		for i := len(list) - n; i < len(list); i++ {
			list[i].Payload = bytes.Repeat([]byte("1"), size)
		}
	})
	b.Wake(hub.FromCommit, []events.Head{{UserID: user}})
}

func TestPagesAreSentInPieces(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al", confirming)
		b.appendLarge("al", 100, 1000)
		b.appendLarge("al", 2, 50_000)
		synctest.Wait()
		if through, n := c.last(); through != 102 || n != 102 {
			t.Errorf("%d messages through %d", n, through)
		}
		for _, batch := range c.batches {
			size := 0
			for _, e := range batch.Events {
				size += len(e.Payload)
			}
			if size > 16<<10 && len(batch.Events) > 1 {
				t.Errorf("%d events and %d bytes in one batch", len(batch.Events), size)
			}
		}
	})
}

// blockingConn takes some events of a batch and then no more.
type blockingConn struct {
	*fakeConn
	takes int // events until it is full
}

func (c *blockingConn) Send(batch hub.Batch) error {
	part := batch
	if full := c.takes < len(batch.Events); full {
		part.Events = batch.Events[:c.takes]
		part.Through = batch.After
		if c.takes > 0 {
			part.Through = part.Events[c.takes-1].Seq
		}
	}
	c.takes -= len(part.Events)
	c.mu.Lock()
	c.batches = append(c.batches, part)
	c.mu.Unlock()
	if part.Through < batch.Through || c.takes == 0 {
		c.session.Blocked(part)
	}
	return nil
}

func (b *bubble) connectBlocking(user string, takes int) *blockingConn {
	b.t.Helper()
	s, err := b.Open(b.t.Context(), user, "test")
	if err != nil {
		b.t.Fatal(err)
	}
	c := &blockingConn{&fakeConn{session: s}, takes}
	s.Start(c)
	synctest.Wait()
	return c
}

// A client that takes part of a batch is sent the rest when it is ready, from the
// log, and nothing twice. What it was not sent it cannot confirm.
func TestBlockedSessionGoesOnWhereItStopped(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.appendLarge("al", 40, 1000)
		c := b.connectBlocking("al", 20)
		if through, n := c.last(); through != 20 || n != 20 {
			t.Fatalf("%d messages through %d", n, through)
		}
		reads := 0
		b.log.with(func() { reads = b.log.reads })
		b.appendLarge("al", 1, 1000)
		synctest.Wait()
		b.log.with(func() {
			if b.log.reads != reads {
				t.Errorf("%d reads of the log for a client that takes nothing", b.log.reads-reads)
			}
		})
		if err := c.session.Ack(21); !errors.Is(err, hub.ErrBeyondSent) {
			t.Errorf("ack of a message that was not written: %v", err)
		}
		if err := c.session.Ack(20); err != nil {
			t.Error(err)
		}
		for c.takes = 3; ; c.takes = 3 {
			c.session.Unblocked()
			synctest.Wait()
			through, n := c.last()
			if int64(n) != through {
				t.Fatalf("%d messages through %d", n, through)
			}
			if err := c.session.Ack(through); err != nil {
				t.Fatal(err)
			}
			if through == 41 {
				break
			}
		}
		c.session.Unblocked()
		pass(time.Minute) // nothing is waited for
		if why, ended := c.closing(); ended {
			t.Errorf("closed: %+v", why)
		}
	})
}

// A client that takes 16 messages at a time costs about as much reading as it takes,
// not a page each time.
func TestSlowClientCostsLittleReading(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		const n, size = 320, 1000
		b.appendLarge("al", n, size)
		c := b.connectBlocking("al", 16)
		b.log.with(func() { b.log.bytes = 0 }) // the first page was a whole one
		for through := int64(0); through < n; {
			c.takes = 16
			c.session.Unblocked()
			synctest.Wait()
			through, _ = c.last()
			if err := c.session.Ack(through); err != nil {
				t.Fatal(err)
			}
		}
		b.log.with(func() {
			if b.log.bytes > 2*n*size {
				t.Errorf("%d bytes were read to send %d", b.log.bytes, n*size)
			}
		})
	})
}

// Bytes that a full connection takes are progress, and so is a confirmation.
func TestBlockedSessionEndsWithoutProgress(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.appendLarge("al", 40, 1000)
		c := b.connectBlocking("al", 20)
		for range 5 {
			pass(25 * time.Second)
			c.session.Took()
		}
		for seq := range int64(5) {
			pass(25 * time.Second)
			if err := c.session.Ack(seq + 1); err != nil {
				t.Fatal(err)
			}
		}
		if why, ended := c.closing(); ended {
			t.Fatalf("closed in spite of progress: %+v", why)
		}
		pass(32 * time.Second)
		if why, _ := c.closing(); why.Label != hub.Stalled.Label || why.Code != hub.CodeNoAck {
			t.Errorf("closed: %+v", why)
		}
	})
}
