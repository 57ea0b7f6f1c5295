package hub_test

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
)

func TestSessionIsSentWhatIsPendingAndThenWhatComes(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.log.append("al", 3)
		b.log.Ack("al", 1)
		c := b.connect("al", confirming)
		synctest.Wait()
		if through, n := c.last(); through != 3 || n != 2 {
			t.Errorf("after connecting: %d messages through %d", n, through)
		}
		for range 5 {
			b.appendAndWake("al", 2)
		}
		synctest.Wait()
		if through, n := c.last(); through != 13 || n != 12 {
			t.Errorf("after appends: %d messages through %d", n, through)
		}
		b.log.with(func() {
			if b.log.acked["al"] != 13 {
				t.Errorf("acked %d", b.log.acked["al"])
			}
		})
	})
}

// A client that does not confirm is sent no more than the window, and read no
// more from the log; an ack makes room.
func TestFullWindowStopsReading(t *testing.T) {
	for name, change := range map[string]func(*hub.Config){
		"messages": func(cfg *hub.Config) { cfg.WindowMessages = 4 },
		"bytes":    func(cfg *hub.Config) { cfg.WindowBytes = 4 }, // each payload is one digit
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, change, func(t *testing.T, b *bubble) {
				b.log.page = 2
				c := b.connect("al")
				b.appendAndWake("al", 9)
				synctest.Wait()
				if through, n := c.last(); through != 4 || n != 4 {
					t.Errorf("sent %d messages through %d", n, through)
				}
				var reads int
				b.log.with(func() { reads = b.log.reads })
				b.Wake(hub.FromNotify, []events.Head{{UserID: "al", Seq: 9}})
				synctest.Wait()
				b.log.with(func() {
					if b.log.reads != reads {
						t.Errorf("%d reads while the window was full", b.log.reads-reads)
					}
				})
				if err := c.session.Ack(1); err != nil { // part of a write makes no room
					t.Error(err)
				}
				synctest.Wait()
				if through, _ := c.last(); through != 4 {
					t.Errorf("after part of the first write: through %d", through)
				}
				if err := c.session.Ack(2); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if through, _ := c.last(); through != 6 {
					t.Errorf("after the ack of a write: through %d", through)
				}
				if err := c.session.Ack(6); err != nil {
					t.Error(err)
				}
				synctest.Wait()
				if through, n := c.last(); through != 9 || n != 9 {
					t.Errorf("after all acks: %d messages through %d", n, through)
				}
			})
		})
	}
}

func TestUnconfirmedSessionIsClosed(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al")
		b.appendAndWake("al", 1)
		pass(29 * time.Second)
		if why, ended := c.closing(); ended {
			t.Fatalf("closed before the ack timeout: %+v", why)
		}
		b.appendAndWake("al", 1) // what is written later gives the earlier one no more time
		pass(3 * time.Second)
		if why, _ := c.closing(); why.Code != hub.CodeNoAck {
			t.Errorf("after the ack timeout: %+v", why)
		}
		// What was not confirmed is sent again to the next connection.
		again := b.connect("al", confirming)
		synctest.Wait()
		if through, n := again.last(); through != 2 || n != 2 {
			t.Errorf("after coming back: %d messages through %d", n, through)
		}
	})
}

// A client that works through a long page, confirming as it goes, is slow and not
// dead: to close it would only send it the rest again.
func TestSlowButConfirmingSessionIsKept(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al")
		b.appendAndWake("al", 20)
		synctest.Wait()
		for seq := int64(1); seq <= 20; seq++ {
			pass(10 * time.Second)
			if err := c.session.Ack(seq); err != nil {
				t.Fatal(err)
			}
		}
		if why, ended := c.closing(); ended {
			t.Errorf("closed: %+v", why)
		}
		b.appendAndWake("al", 20)
		pass(10 * time.Second)
		if err := c.session.Ack(21); err != nil {
			t.Fatal(err)
		}
		for range 4 { // repeating an ack is no progress
			pass(8 * time.Second)
			_ = c.session.Ack(21)
		}
		if why, _ := c.closing(); why.Code != hub.CodeNoAck {
			t.Errorf("without progress: %+v", why)
		}
	})
}

func TestAckBeyondWhatWasSentIsRefused(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.log.append("al", 2)
		b.log.Ack("al", 1)
		c := b.connect("al")
		synctest.Wait()
		b.log.append("al", 5) // in the log, and not sent
		for seq, want := range map[int64]error{0: nil, 1: nil, 2: nil, 3: hub.ErrBeyondSent, 1 << 62: hub.ErrBeyondSent} {
			if err := c.session.Ack(seq); !errors.Is(err, want) {
				t.Errorf("ack %d: %v, want %v", seq, err, want)
			}
		}
		if at := c.session.Position(); at.Acked != 2 {
			t.Errorf("position %+v", at)
		}
		if err := c.session.Ack(1); err != nil { // older acks may come late
			t.Error(err)
		}
		if at := c.session.Position(); at.Acked != 2 {
			t.Errorf("position after an older ack %+v", at)
		}
		b.log.with(func() {
			if b.log.acked["al"] != 2 {
				t.Errorf("acked %d", b.log.acked["al"])
			}
		})
	})
}

// The client may confirm before the write that sent the message has returned.
func TestAckDuringTheWriteCounts(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al", func(c *fakeConn) {
			c.onSend = func(batch hub.Batch) error {
				if err := c.session.Ack(batch.Through); err != nil {
					t.Errorf("ack during the write: %v", err)
				}
				return nil
			}
		})
		b.appendAndWake("al", 3)
		pass(time.Minute)
		if why, ended := c.closing(); ended {
			t.Errorf("closed: %+v", why)
		}
	})
}

func TestWakeDuringTheWriteIsNotLost(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		var writes atomic.Int64
		c := b.connect("al", func(c *fakeConn) {
			c.onSend = func(batch hub.Batch) error {
				if writes.Add(1) <= 5 {
					b.appendAndWake("al", 1)
				}
				return c.session.Ack(batch.Through)
			}
		})
		b.appendAndWake("al", 1)
		synctest.Wait()
		if through, n := c.last(); through != 6 || n != 6 {
			t.Errorf("%d messages through %d", n, through)
		}
	})
}

// A wake that comes between the look at the log and the transport's start.
func TestWakeBeforeTheStartIsNotLost(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		s, err := b.Open(t.Context(), "al", "test")
		if err != nil {
			t.Fatal(err)
		}
		b.appendAndWake("al", 2)
		synctest.Wait()
		c := &fakeConn{session: s}
		s.Start(c)
		synctest.Wait()
		if through, _ := c.last(); through != 2 {
			t.Errorf("through %d", through)
		}
	})
}

func TestSessionThatEndsDuringAWriteStops(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		writing, broken := make(chan struct{}), make(chan struct{})
		c := b.connect("al", func(c *fakeConn) {
			c.onSend = func(hub.Batch) error {
				close(writing)
				<-broken
				return errors.New("connection closed")
			}
		})
		b.appendAndWake("al", 1)
		<-writing
		c.session.End(hub.ByClient)
		b.appendAndWake("al", 1)
		close(broken)
		synctest.Wait()
		c.session.End(hub.Unreachable)
		if c.mu.Lock(); len(c.closed) != 1 || c.closed[0].Label != hub.ByClient.Label || len(c.batches) != 1 {
			t.Errorf("closed %+v, %d writes", c.closed, len(c.batches))
		}
		c.mu.Unlock()
	})
}

func TestFailedWriteEndsTheSession(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al", func(c *fakeConn) {
			c.onSend = func(hub.Batch) error { return errors.New("connection reset") }
		})
		b.appendAndWake("al", 1)
		synctest.Wait()
		if why, _ := c.closing(); why.Label != hub.Unreachable.Label {
			t.Errorf("closed: %+v", why)
		}
		pass(time.Second)
		b.log.with(func() {
			if len(b.log.rows) != 0 || b.log.watched["al"] != 0 || b.log.acked["al"] != 0 {
				t.Errorf("left behind: %d rows, %d watchers, acked %d", len(b.log.rows), b.log.watched["al"], b.log.acked["al"])
			}
		})
	})
}

// The counter-example: a read of the log fails, its wake is used up, and the
// session goes back to waiting: nobody will wake it again.
func TestFailedReadIsRepeated(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al", confirming)
		b.log.with(func() { b.log.failing = 1000 })
		b.appendAndWake("al", 1)
		pass(5 * time.Second)
		var reads int
		b.log.with(func() { reads = b.log.reads })
		// Six waits of 20 to 640 ms and then a second each, give or take half of it.
		if reads < 5 || reads > 16 {
			t.Errorf("%d reads in 5 s: it should back off, to a second", reads)
		}
		b.log.with(func() { b.log.failing = 0 })
		pass(1500 * time.Millisecond)
		if through, _ := c.last(); through != 1 {
			t.Errorf("through %d, 1.5 s after the log was back", through)
		}
	})
}

// The counter-example: a head that this log never reaches, told by a replica that
// still has the log from before a restore. Reading until it is reached never ends.
func TestHeadOfAnotherEpochIsNotReadFor(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al", confirming)
		b.appendAndWake("al", 2)
		b.Wake(hub.FromNotify, []events.Head{{UserID: "al", Seq: 1000}})
		pass(10 * time.Second)
		var reads int
		b.log.with(func() { reads = b.log.reads })
		if reads > 5 {
			t.Errorf("%d reads", reads)
		}
		b.appendAndWake("al", 2)
		synctest.Wait()
		if through, _ := c.last(); through != 4 {
			t.Errorf("through %d after the next append", through)
		}
	})
}

// Events that expired are a gap: told, and not waited for.
func TestExpiredEventsAreAGap(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		expire := func(seqs ...int64) {
			for _, seq := range seqs {
				b.log.streams["al"][seq-1].ExpiresAt = time.Now()
			}
		}
		b.log.append("al", 6)
		expire(1, 2, 4, 6)
		c := b.connect("al")
		synctest.Wait()
		if through, n := c.last(); through != 6 || n != 2 {
			t.Errorf("%d messages through %d", n, through)
		}
		if err := c.session.Ack(6); err != nil {
			t.Error(err)
		}
		b.log.append("al", 2)
		expire(7, 8)
		b.Wake(hub.FromCommit, []events.Head{{UserID: "al", Seq: 8}})
		pass(time.Minute) // there is nothing to confirm
		if through, n := c.last(); through != 8 || n != 2 {
			t.Errorf("%d messages through %d", n, through)
		}
		if why, ended := c.closing(); ended {
			t.Errorf("closed: %+v", why)
		}
	})
}
