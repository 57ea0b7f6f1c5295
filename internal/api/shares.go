package api

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// shares divides something that there is so much of (memory, processors) among
// publishers. A publisher may hold reserve times what would be left free after it:
// with 3, three quarters when it is alone, and as many as it likes when reserve is
// 0. So there is something left for a publisher that holds nothing. What is given
// back goes to the waiting publisher that holds the least, and among equals to the
// one that was served the longest time ago.
type shares struct {
	reserve int64

	mu      sync.Mutex // guards all below
	free    int64
	claims  int               // requests that wait
	claimed int64             // requests that have ever waited
	served  int64             // grants, to tell the order of the last ones
	holders map[string]*share // by publisher; only those that hold something or wait
}

type share struct {
	held    int64
	served  int64 // number of the last grant
	waiting []*claim
}

// claim is a request that waits for its publisher's share.
type claim struct {
	n       int64
	number  int64 // of all claims, in the order of their arrival
	granted chan struct{}
}

func newShares(bound, reserve int64) *shares {
	return &shares{reserve: reserve, free: bound, holders: map[string]*share{}}
}

// try takes n for a publisher, if it may have it now.
func (s *shares) try(publisher string, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holder(publisher)
	if s.may(h, n) {
		s.grant(h, n)
		return true
	}
	s.forget(publisher, h)
	return false
}

// take takes n for a publisher, and waits for its turn, as long as patience. The error
// is ctx's. What waits should not hold any of it, or all might wait for each other.
func (s *shares) take(ctx context.Context, publisher string, n int64, patience time.Duration) error {
	s.mu.Lock()
	h := s.holder(publisher)
	if len(h.waiting) == 0 && s.may(h, n) {
		s.grant(h, n)
		s.mu.Unlock()
		return nil
	}
	s.claimed++
	c := &claim{n: n, number: s.claimed, granted: make(chan struct{})}
	h.waiting = append(h.waiting, c)
	s.claims++
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-c.granted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(h.waiting, c); i >= 0 {
		h.waiting = slices.Delete(h.waiting, i, i+1)
		s.claims--
		s.forget(publisher, h)
		s.next() // a smaller one behind it may fit
		return context.Cause(ctx)
	}
	return nil // granted at the same moment
}

// put gives back what try or take took.
func (s *shares) put(publisher string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holders[publisher]
	h.held -= n
	s.free += n
	s.forget(publisher, h)
	s.next()
}

// may reports whether a publisher may have n more. One that holds nothing may have
// whatever there is.
func (s *shares) may(h *share, n int64) bool {
	left := s.free - n
	return left >= 0 && (h.held == 0 || s.reserve == 0 || h.held+n <= s.reserve*left)
}

func (s *shares) grant(h *share, n int64) {
	s.free -= n
	h.held += n
	s.served++
	h.served = s.served
}

// next serves those that wait, as far as there is enough.
func (s *shares) next() {
	for s.claims > 0 {
		var first *share
		for _, h := range s.holders {
			if len(h.waiting) > 0 && s.may(h, h.waiting[0].n) && (first == nil || before(h, first)) {
				first = h
			}
		}
		if first == nil {
			return
		}
		c := first.waiting[0]
		first.waiting = slices.Delete(first.waiting, 0, 1)
		s.claims--
		s.grant(first, c.n)
		close(c.granted)
	}
}

func before(a, b *share) bool {
	return cmp.Or(cmp.Compare(a.held, b.held), cmp.Compare(a.served, b.served), cmp.Compare(a.waiting[0].number, b.waiting[0].number)) < 0
}

func (s *shares) holder(publisher string) *share {
	h := s.holders[publisher]
	if h == nil {
		h = &share{}
		s.holders[publisher] = h
	}
	return h
}

func (s *shares) forget(publisher string, h *share) {
	if h.held == 0 && len(h.waiting) == 0 {
		delete(s.holders, publisher)
	}
}
