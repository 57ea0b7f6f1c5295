package hub_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
)

// pongs makes the client answer pings after a while.
func (c *fakeConn) pongs(after time.Duration) {
	c.onPing = func() error {
		time.AfterFunc(after, c.session.Heard)
		return nil
	}
}

func TestSilentConnectionIsPinged(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		answering := b.connect("al", func(c *fakeConn) { c.pongs(3 * time.Second) })
		silent := b.connect("bea", func(c *fakeConn) { c.onPing = func() error { return nil } })
		busy := b.connect("cem", confirming)
		start := time.Now()
		for range 100 {
			pass(time.Second)
			b.appendAndWake("cem", 1)
		}
		if n := len(answering.pinged()); n < 3 || n > 4 {
			t.Errorf("%d pings in 100 s", n)
		}
		if why, ended := answering.closing(); ended {
			t.Errorf("answering connection was closed: %+v", why)
		}
		if n := len(busy.pinged()); n != 0 {
			t.Errorf("%d pings to a connection that confirms messages", n)
		}
		why, _ := silent.closing()
		if after := silent.ended.Sub(start); why.Label != hub.Unreachable.Label || after < 35*time.Second || after > 38*time.Second {
			t.Errorf("silent connection: %+v after %v", why, after)
		}
		if n := len(silent.pinged()); n != 1 {
			t.Errorf("%d pings to the silent connection", n)
		}
	})
}

// A client watches over its connection by what the server sends: pings come also
// to one that is not silent itself, and to one that takes long to confirm.
func TestSilenceOfTheServerIsBounded(t *testing.T) {
	inBubble(t, func(cfg *hub.Config) { cfg.AckTimeout = time.Hour }, func(t *testing.T, b *bubble) {
		talking := b.connect("al", func(c *fakeConn) { c.pongs(time.Second) })
		owing := b.connect("bea", func(c *fakeConn) { c.pongs(time.Second) })
		b.appendAndWake("bea", 1)
		for range 100 {
			pass(time.Second)
			talking.session.Heard()
		}
		for name, c := range map[string]*fakeConn{"talking": talking, "owing": owing} {
			if n := len(c.pinged()); n < 3 || n > 4 {
				t.Errorf("%s: %d pings in 100 s", name, n)
			}
			if why, ended := c.closing(); ended {
				t.Errorf("%s: closed: %+v", name, why)
			}
		}
	})
}

func TestFailedPingEndsTheSession(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al", func(c *fakeConn) { c.onPing = func() error { return errors.New("broken pipe") } })
		pass(27 * time.Second)
		if why, _ := c.closing(); why.Label != hub.Unreachable.Label {
			t.Errorf("closed: %+v", why)
		}
	})
}

// Sessions opened together must not end together.
func TestMaximumAgeIsSpread(t *testing.T) {
	inBubble(t, func(cfg *hub.Config) { cfg.MaxAge, cfg.MaxPerUser = time.Hour, 1000 }, func(t *testing.T, b *bubble) {
		start := time.Now()
		var conns []*fakeConn
		for range 200 {
			conns = append(conns, b.connect("al"))
		}
		pass(53 * time.Minute)
		for _, c := range conns {
			if why, ended := c.closing(); ended {
				t.Fatalf("closed too early: %+v", why)
			}
		}
		pass(15 * time.Minute)
		early, late := 0, 0
		for _, c := range conns {
			why, _ := c.closing()
			if why.Code != hub.CodeRestart {
				t.Fatalf("closed: %+v", why)
			}
			switch age := c.ended.Sub(start); {
			case age < 57*time.Minute:
				early++
			case age > 63*time.Minute:
				late++
			}
		}
		if early < 20 || late < 20 {
			t.Errorf("of 200 sessions %d ended in the first quarter of the spread and %d in the last", early, late)
		}
	})
}

// The counter-example: a user under traffic, always with something on the way.
// Such a session would never be too old, and reconnects would not be ordinary.
func TestBusySessionReachesItsMaximumAge(t *testing.T) {
	inBubble(t, func(cfg *hub.Config) { cfg.MaxAge = time.Hour }, func(t *testing.T, b *bubble) {
		c := b.connect("al")
		b.appendAndWake("al", 1)
		for range 70 * 60 {
			head := b.appendAndWake("al", 1)
			pass(time.Second)
			if err := c.session.Ack(head - 1); err != nil {
				break
			}
		}
		if why, _ := c.closing(); why.Code != hub.CodeRestart {
			t.Errorf("after 70 minutes: %+v", why)
		}
	})
}

// The counter-example: one of two sessions of a user misses its wake. The other
// one's confirmation makes the lane idle; no job is left that would wake it.
func TestSweepFindsWhatWasMissed(t *testing.T) {
	inBubble(t, func(cfg *hub.Config) { cfg.SweepEvery = 2 * time.Second }, func(t *testing.T, b *bubble) {
		first, second := b.connect("al", confirming), b.connect("al", confirming)
		idle, owed := b.connect("bea", confirming), b.connect("cid", confirming)
		b.log.append("al", 3)
		b.log.Ack("al", 3) // somebody else was quicker
		b.log.append("cid", 3)
		pass(500 * time.Millisecond)
		if through, _ := owed.last(); through != 3 {
			t.Errorf("a lane that is owed, after a fifth of the period: through %d", through)
		}
		pass(1600 * time.Millisecond)
		for i, c := range []*fakeConn{first, second} {
			if through, _ := c.last(); through != 3 {
				t.Errorf("session %d: through %d", i, through)
			}
		}
		if through, _ := idle.last(); through != 0 {
			t.Errorf("another user's session: through %d", through)
		}
	})
}

// The log is asked for a thousand sessions at a time, and for all of them.
func TestSweepComparesAllOfManySessions(t *testing.T) {
	inBubble(t, func(cfg *hub.Config) { cfg.SweepEvery = 2 * time.Second }, func(t *testing.T, b *bubble) {
		conns := map[string]*fakeConn{}
		for i := range 2100 {
			user := fmt.Sprint("user", i)
			conns[user] = b.connect(user, confirming)
			b.log.append(user, 1)
			b.log.Ack(user, 1) // by somebody else: the lane is idle
		}
		pass(2100 * time.Millisecond)
		for user, c := range conns {
			if through, _ := c.last(); through != 1 {
				t.Errorf("%s: through %d", user, through)
			}
		}
	})
}

// The counter-example: the write of an ack was lost, with the last seconds before
// a crash of Postgres. The client has nothing more to confirm.
func TestLostAckIsHandedInAgain(t *testing.T) {
	for name, notice := range map[string]func(*bubble){
		"by the sweep": func(b *bubble) { pass(3 * time.Second) },
		"while owed":   func(b *bubble) { pass(500 * time.Millisecond) }, // a fifth of it
		"by a job":     func(b *bubble) { b.Wake(hub.FromJob, []events.Head{{UserID: "al"}}) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(cfg *hub.Config) {
				if name != "by a job" {
					cfg.SweepEvery = 2 * time.Second
				}
			}, func(t *testing.T, b *bubble) {
				b.connect("al", confirming)
				b.appendAndWake("al", 3)
				synctest.Wait()
				b.log.with(func() { b.log.acked["al"] = 1 })
				notice(b)
				b.log.with(func() {
					if b.log.acked["al"] != 3 {
						t.Errorf("acked %d", b.log.acked["al"])
					}
				})
			})
		})
	}
}

// The counter-example: the replica was taken for dead (it stood still, or Postgres
// crashed and emptied the tables), and its users were parked. Nothing that is
// appended for them wakes anybody.
func TestLapsedLeaseAttachesAllAgain(t *testing.T) {
	var lapsed, broken atomic.Bool
	inBubble(t, func(cfg *hub.Config) {
		cfg.Beat = func(context.Context) (events.Beat, error) {
			if broken.Load() {
				return events.Beat{}, errors.New("no connection")
			}
			return events.Beat{Lapsed: lapsed.Load()}, nil
		}
		cfg.Lease = time.Hour // a heartbeat every quarter; the comparison of rows comes after two
	}, func(t *testing.T, b *bubble) {
		c := b.connect("al", confirming)
		gone := b.connect("bea")
		gone.session.End(hub.ByClient)
		pass(time.Minute)
		b.log.with(func() { clear(b.log.rows) })
		b.log.append("al", 2)
		pass(15 * time.Minute)
		if through, _ := c.last(); through != 0 {
			t.Fatalf("through %d without a wake", through)
		}
		lapsed.Store(true)
		broken.Store(true)
		pass(15 * time.Minute)
		broken.Store(false)
		b.log.with(func() { b.log.noAttach = events.ErrUnavailable })
		pass(15 * time.Minute)
		lapsed.Store(false) // noticed once; it must not be forgotten until it is mended
		b.log.with(func() { b.log.noAttach = nil })
		pass(16 * time.Minute)
		b.log.with(func() {
			if len(b.log.rows) != 1 {
				t.Errorf("%d session rows", len(b.log.rows))
			}
		})
		if through, _ := c.last(); through != 2 {
			t.Errorf("through %d after the sessions were attached again", through)
		}
	})
}

// The counter-example: a row whose session is gone (its delete failed, or it was
// attached after it had ended) keeps the user's job busy for ever; a row that is
// missing lets it park a user who is connected.
func TestSessionRowsAreRepaired(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al", confirming)
		left := events.Session{ID: "left over", UserID: "bea", ReplicaID: "one"}
		other := events.Session{ID: "of another replica", UserID: "bea", ReplicaID: "two"}
		b.log.with(func() {
			delete(b.log.rows, c.session.ID())
			b.log.rows[left.ID], b.log.rows[other.ID] = left, other
		})
		pass(time.Minute)
		b.log.with(func() {
			_, mine := b.log.rows[c.session.ID()]
			_, isLeft := b.log.rows[left.ID]
			_, others := b.log.rows[other.ID]
			if !mine || isLeft || !others {
				t.Errorf("own row %t, left over %t, of another replica %t", mine, isLeft, others)
			}
		})
	})
}

func TestRowOfAnEndedSessionIsDeletedUntilItWorks(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		c := b.connect("al")
		b.log.with(func() { b.log.noDetach = events.ErrUnavailable })
		c.session.End(hub.ByClient)
		pass(5 * time.Second)
		b.log.with(func() { b.log.noDetach = nil })
		pass(time.Second)
		b.log.with(func() {
			if len(b.log.rows) != 0 {
				t.Errorf("%d rows left", len(b.log.rows))
			}
		})
	})
}

func TestSeveralSessionsOfOneUser(t *testing.T) {
	inBubble(t, func(cfg *hub.Config) { cfg.MaxPerUser = 3 }, func(t *testing.T, b *bubble) {
		one, two, three := b.connect("al", confirming), b.connect("al"), b.connect("al", confirming)
		if _, err := b.Open(t.Context(), "al", "test"); !errors.Is(err, hub.ErrTooManySessions) {
			t.Errorf("a fourth: %v", err)
		}
		b.connect("bea")
		b.appendAndWake("al", 2)
		synctest.Wait()
		one.session.End(hub.ByClient)
		b.appendAndWake("al", 1)
		synctest.Wait()
		for i, want := range []int64{2, 3, 3} {
			if through, _ := []*fakeConn{one, two, three}[i].last(); through != want {
				t.Errorf("session %d: through %d, want %d", i, through, want)
			}
		}
		if at := two.session.Position(); at.Acked != 0 {
			t.Errorf("a session that confirms nothing stands at %+v", at)
		}
		if _, err := b.Open(t.Context(), "al", "test"); err != nil {
			t.Errorf("after one has gone: %v", err)
		}
		b.log.with(func() {
			if b.log.watched["al"] != 1 || b.log.watched["bea"] != 1 {
				t.Errorf("watched %v", b.log.watched)
			}
		})
	})
}

func TestFailedAttachLeavesNothingBehind(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.log.with(func() { b.log.noAttach = events.ErrUnavailable })
		if _, err := b.Open(t.Context(), "al", "test"); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("open: %v", err)
		}
		b.log.with(func() {
			if b.log.watched["al"] != 0 {
				t.Errorf("%d watchers", b.log.watched["al"])
			}
		})
	})
}

func TestNotReadyBeforeTheFirstHeartbeat(t *testing.T) {
	inBubble(t, func(cfg *hub.Config) {
		cfg.Beat = func(ctx context.Context) (events.Beat, error) {
			<-ctx.Done() // Postgres does not answer
			return events.Beat{}, ctx.Err()
		}
	}, func(t *testing.T, b *bubble) {
		pass(time.Minute)
		if b.Ready() == nil {
			t.Error("ready without a heartbeat")
		}
	})
}
