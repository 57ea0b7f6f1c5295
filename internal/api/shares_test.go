package api

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSharesLeaveSomethingForOthers(t *testing.T) {
	t.Parallel()
	s := newShares(128, 3)
	fill := func(publisher string) (n int64) {
		for s.try(publisher, 1) {
			n++
		}
		return n
	}
	if n := fill("a"); n != 96 {
		t.Errorf("alone it may hold %d of 128, want 96", n)
	}
	if n := fill("b"); n != 24 {
		t.Errorf("a second one may hold %d beside it, want 24", n)
	}
	for i := range 8 {
		if !s.try(fmt.Sprint("late ", i), 1) {
			t.Errorf("one that holds nothing was refused, with %d left", s.free)
		}
	}
	if s.try("one more", 1) {
		t.Error("more was taken than there is")
	}
	for range 96 {
		s.put("a", 1)
	}
	if n := fill("b"); n < 40 {
		t.Errorf("it may hold %d more when the first one is gone", n)
	}
}

// The counter-example: what is given back goes to the one that asks the most.
func TestSharesServeTheOneThatHoldsTheLeast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShares(1, 0)
		if !s.try("flood", 1) {
			t.Fatal("refused")
		}
		var order []string
		ask := func(publisher string) {
			go func() {
				if err := s.take(t.Context(), publisher, 1, time.Hour); err != nil {
					t.Error(err)
					return
				}
				order = append(order, publisher) // one holds at a time
				s.put(publisher, 1)
			}()
			synctest.Wait()
		}
		for range 10 {
			ask("flood")
		}
		ask("b")
		ask("b")
		ask("c")
		s.put("flood", 1)
		synctest.Wait()
		if got := fmt.Sprint(order[:6]); got != "[b c flood b flood flood]" {
			t.Errorf("served in the order %s", got)
		}
		if len(s.holders) != 0 || s.free != 1 || s.claims != 0 {
			t.Errorf("left: %d publishers, %d free, %d claims", len(s.holders), s.free, s.claims)
		}
	})
}

// A request that gives up leaves nothing behind, and lets a smaller one go.
func TestSharesForgetTheOneThatGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShares(10, 0)
		s.try("holder", 5)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.take(ctx, "a", 8, time.Hour); err != context.Canceled {
				t.Errorf("take: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if err := s.take(t.Context(), "a", 3, time.Hour); err != nil {
				t.Errorf("take: %v", err)
			}
		})
		synctest.Wait()
		if s.claims != 2 {
			t.Fatalf("%d wait", s.claims)
		}
		cancel()
		wg.Wait()
		s.put("a", 3)
		s.put("holder", 5)
		if len(s.holders) != 0 || s.claims != 0 || s.free != 10 {
			t.Errorf("left: %d publishers, %d claims, %d free", len(s.holders), s.claims, s.free)
		}
	})
}
