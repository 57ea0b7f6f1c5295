package hub_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
)

func TestDrainSpreadsTheReturn(t *testing.T) {
	inBubble(t, func(cfg *hub.Config) { cfg.MaxPerUser = 100 }, func(t *testing.T, b *bubble) {
		var conns []*fakeConn
		for range 50 {
			conns = append(conns, b.connect("al"))
		}
		early, err := b.Open(t.Context(), "al", "test") // still at its handshake
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Ready(); err != nil {
			t.Errorf("ready before: %v", err)
		}
		const spread = 10 * time.Second
		b.Drain(spread)
		if _, err := b.Open(t.Context(), "al", "test"); !errors.Is(err, hub.ErrDraining) {
			t.Errorf("open while draining: %v", err)
		}
		if err := b.Ready(); !errors.Is(err, hub.ErrDraining) {
			t.Errorf("ready while draining: %v", err)
		}
		late := &fakeConn{session: early}
		early.Start(late)
		low, high := 0, 0
		for _, c := range append(conns, late) {
			why, ended := c.closing()
			if !ended || why.Code != hub.CodeRestart || why.ReconnectAfter < 0 || why.ReconnectAfter >= spread {
				t.Errorf("closed %t: %+v", ended, why)
			}
			if why.ReconnectAfter < spread/2 {
				low++
			} else {
				high++
			}
		}
		if low < 5 || high < 5 {
			t.Errorf("%d come back in the first half of the spread, %d in the second", low, high)
		}
		if why, _ := late.closing(); why.ReconnectAfter == 0 {
			t.Errorf("who was at the handshake comes back at once: %+v", why)
		}
	})
}

// The counter-example: the replica stops while a heartbeat is at Postgres, which
// carries it out after the lease was given up, and the lease is back.
func TestStopWaitsForTheHeartbeatThatIsOnItsWay(t *testing.T) {
	var onItsWay, givenUp atomic.Bool
	inBubble(t, func(cfg *hub.Config) {
		cfg.Beat = func(ctx context.Context) (events.Beat, error) {
			onItsWay.Store(true)
			select {
			case <-time.After(2 * time.Second):
				onItsWay.Store(false)
			case <-ctx.Done():
				givenUp.Store(true)
			}
			return events.Beat{}, ctx.Err()
		}
	}, func(t *testing.T, b *bubble) {
		pass(6 * time.Second) // one was answered after 2 s, the next has begun after 5
		if !onItsWay.Load() {
			t.Fatal("no heartbeat is on its way")
		}
		b.stop()
		if onItsWay.Load() || givenUp.Load() {
			t.Errorf("at the end of Run: on its way %v, given up %v", onItsWay.Load(), givenUp.Load())
		}
	})
}

// Close gives up on what cannot finish, and leaves all the same.
func TestCloseEndsReadsThatCannotSucceed(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		b.connect("al")
		b.log.with(func() { b.log.failing = 1 << 30 })
		b.appendAndWake("al", 1)
		synctest.Wait()
		b.Drain(0)
		ctx, outOfTime := context.WithCancel(t.Context())
		outOfTime()
		if err := b.Close(ctx); err != nil {
			t.Error(err)
		}
		b.log.with(func() {
			if !b.log.left {
				t.Error("the replica did not leave")
			}
		})
	})
}
