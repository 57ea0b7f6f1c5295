package publishers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// counted returns a cache over a table with the key ids that begin with a "k",
// and the number of look-ups it has made.
func counted() (*cache, *atomic.Int64) {
	var n atomic.Int64
	return newCache(func(_ context.Context, keyID string) (row, error) {
		n.Add(1)
		return row{found: keyID[0] == 'k', publisher: Publisher{KeyID: keyID}}, nil
	}), &n
}

func TestBusyKeyCostsOneLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n := counted()
		for range 1000 {
			if r, stale, err := c.get(t.Context(), "key"); err != nil || stale || !r.found {
				t.Fatalf("get = %+v, %v, %v", r, stale, err)
			}
			c.get(t.Context(), "mistyped")
		}
		if n.Load() != 2 {
			t.Errorf("%d look-ups for two ids, want 2", n.Load())
		}
		time.Sleep(unknownFor) // fake time
		c.get(t.Context(), "mistyped")
		c.get(t.Context(), "key")
		if n.Load() != 3 {
			t.Errorf("%d look-ups after %v, want 3", n.Load(), unknownFor)
		}
		time.Sleep(RevokeWithin)
		c.get(t.Context(), "key")
		if n.Load() != 4 {
			t.Errorf("%d look-ups after %v, want 4", n.Load(), RevokeWithin)
		}
	})
}

func TestCacheIsBoundedUnderAFlood(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c, n := counted()
		c.get(t.Context(), "key")
		for i := range 5 * maxUnknown {
			c.get(t.Context(), fmt.Sprint("invented", i))
			if _, unknown := c.sizes(); unknown > maxUnknown {
				t.Fatalf("%d unknown ids are remembered, at most %d should be", unknown, maxUnknown)
			}
		}
		before := n.Load()
		if c.get(t.Context(), "key"); n.Load() != before {
			t.Error("the flood has pushed out a real key")
		}
		for i := range maxKnown + 100 {
			c.get(t.Context(), fmt.Sprint("key", i))
		}
		if known, _ := c.sizes(); known > maxKnown {
			t.Errorf("%d keys are remembered, at most %d should be", known, maxKnown)
		}
	})
}

func TestConcurrentLookups(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n, running, most atomic.Int64
		release := make(chan struct{})
		c := newCache(func(context.Context, string) (row, error) {
			n.Add(1)
			most.Store(max(most.Load(), running.Add(1)))
			<-release
			running.Add(-1)
			return row{found: true}, nil
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if r, _, err := c.get(t.Context(), "one"); err != nil || !r.found {
					t.Errorf("get = %+v, %v", r, err)
				}
			})
		}
		synctest.Wait()
		if n.Load() != 1 {
			t.Errorf("%d look-ups of one key at the same time, want 1", n.Load())
		}
		for i := range 50 {
			wg.Go(func() { c.get(t.Context(), fmt.Sprint(i)) })
		}
		synctest.Wait()
		if most.Load() != maxLookups {
			t.Errorf("%d look-ups of unknown ids ran at the same time, want %d", most.Load(), maxLookups)
		}
		close(release)
		wg.Wait()
	})
}

// The one who looks leaves; those who wait for its look-up get their answer.
func TestLookupOutlivesItsFirstCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := newCache(func(ctx context.Context, _ string) (row, error) {
			select {
			case <-release:
				return row{found: true}, nil
			case <-ctx.Done():
				return row{}, ctx.Err()
			}
		})
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { c.get(ctx, "key") })
		synctest.Wait()
		wg.Go(func() {
			if r, _, err := c.get(t.Context(), "key"); err != nil || !r.found {
				t.Errorf("get = %+v, %v", r, err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		close(release)
		wg.Wait()
	})
}

// A look-up that read the row before it was revoked must not bring it back.
func TestForgetDuringLookup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var n int
		c := newCache(func(context.Context, string) (row, error) {
			if n++; n == 1 {
				<-release
			}
			return row{found: true}, nil
		})
		var wg sync.WaitGroup
		wg.Go(func() { c.get(t.Context(), "key") })
		synctest.Wait()
		c.forget("key")
		close(release)
		wg.Wait()
		c.get(t.Context(), "key")
		if n != 2 {
			t.Errorf("%d look-ups, want 2: the first one's answer was kept", n)
		}
	})
}

func TestFailingLookupIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("down")
		var err error
		n := 0
		c := newCache(func(ctx context.Context, _ string) (row, error) {
			n++
			if err != nil {
				<-ctx.Done() // no answer at all
			}
			return row{found: true}, err
		})
		c.get(t.Context(), "key")
		err = down
		time.Sleep(RevokeWithin)
		start := time.Now()
		for range 100 {
			if r, stale, err := c.get(t.Context(), "key"); err != nil || !stale || !r.found {
				t.Fatalf("get = %+v, %v, %v, want the stale copy", r, stale, err)
			}
		}
		if d := time.Since(start); n != 2 || d != lookupTimeout {
			t.Errorf("100 checks made %d look-ups and took %v, want 1 and %v", n-1, d, lookupTimeout)
		}
		time.Sleep(Grace)
		if _, _, got := c.get(t.Context(), "key"); !errors.Is(got, down) {
			t.Errorf("after Grace: %v, want %v", got, down)
		}
		err = nil
		time.Sleep(retryAfter)
		if r, stale, err := c.get(t.Context(), "key"); err != nil || stale || !r.found {
			t.Errorf("when it is back: %+v, %v, %v", r, stale, err)
		}
	})
}
