package publishers

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// RevokeWithin is how long a replica may go on with its copy of a key that
	// was revoked on another one.
	RevokeWithin = 10 * time.Second
	// Grace is how long it may do so while Postgres cannot be asked.
	Grace = 60 * time.Second

	// unknownFor is how long an id that is not in the table is not looked for
	// again: short, because the next thing to happen may be its creation.
	unknownFor = time.Second
	// retryAfter spares the requests that come after a failed look-up the wait
	// for the next one's failure.
	retryAfter = time.Second
	// lookupTimeout is short: a request waits for it, and Postgres answers in a
	// millisecond or not at all.
	lookupTimeout = 2 * time.Second

	// maxKnown is far above the number of back ends; should there be more keys,
	// some are looked up more often than they need to be.
	maxKnown   = 10_000
	maxUnknown = 4096
	// maxLookups of ids that are not known here run at the same time, so that a
	// flood of invented keys leaves the pool to those who have work for it.
	maxLookups = 4
)

var errFailedJustNow = errors.New("the last look-up failed less than a second ago")

// cache keeps what the table had for a key id.
type cache struct {
	load    func(ctx context.Context, keyID string) (row, error)
	now     func() time.Time
	flights singleflight.Group // by key id
	lookups chan struct{}      // holds one value per running look-up of an unknown id

	mu      sync.Mutex
	known   map[string]entry     // rows; at most maxKnown
	unknown map[string]time.Time // ids without a row, until when; at most maxUnknown
	// forgotten counts calls of forget: a look-up that was under way then may
	// have read the row as it was before.
	forgotten uint64
}

type entry struct {
	row     row
	checked time.Time // when the table had it
	failed  time.Time // when looking again failed last; zero after a success
}

func newCache(load func(ctx context.Context, keyID string) (row, error)) *cache {
	return &cache{
		load:    load,
		now:     time.Now,
		lookups: make(chan struct{}, maxLookups),
		known:   make(map[string]entry),
		unknown: make(map[string]time.Time),
	}
}

// get returns what the table has for keyID, or had at most RevokeWithin ago;
// stale says that it is older, but not than Grace, because the database does
// not answer.
func (c *cache) get(ctx context.Context, keyID string) (r row, stale bool, err error) {
	now := c.now()
	c.mu.Lock()
	e, isKnown := c.known[keyID]
	until, isUnknown := c.unknown[keyID]
	c.mu.Unlock()
	age := now.Sub(e.checked)
	switch {
	case isKnown && age < RevokeWithin:
		return e.row, false, nil
	case isKnown && now.Sub(e.failed) < retryAfter:
		if age >= Grace {
			return row{}, false, errFailedJustNow
		}
		return e.row, true, nil
	case isUnknown && now.Before(until):
		return row{}, false, nil
	}
	r, err = c.lookup(ctx, keyID, isKnown)
	if err != nil && isKnown && age < Grace {
		return e.row, true, nil
	}
	return r, false, err
}

// lookup asks the database, once for all who ask at the same time. It goes on
// when the first of them leaves, because the others wait for it; none of them
// waits longer than twice lookupTimeout.
func (c *cache) lookup(ctx context.Context, keyID string, isKnown bool) (row, error) {
	if err := ctx.Err(); err != nil {
		return row{}, err
	}
	v, err, _ := c.flights.Do(keyID, func() (any, error) {
		ctx := context.WithoutCancel(ctx)
		if !isKnown {
			wait, cancel := context.WithTimeout(ctx, lookupTimeout)
			defer cancel()
			select {
			case c.lookups <- struct{}{}:
				defer func() { <-c.lookups }()
			case <-wait.Done():
				return row{}, wait.Err()
			}
		}
		c.mu.Lock()
		forgotten := c.forgotten
		c.mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		started := c.now()
		r, err := c.load(ctx, keyID)
		c.store(keyID, r, err, started, forgotten)
		return r, err
	})
	if err != nil {
		return row{}, err
	}
	return v.(row), nil
}

// store remembers what a look-up that began at started has found.
func (c *cache) store(keyID string, r row, err error, started time.Time, forgotten uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if e, ok := c.known[keyID]; ok {
			e.failed = c.now()
			c.known[keyID] = e
		}
		return
	}
	if c.forgotten != forgotten {
		return
	}
	if !r.found {
		delete(c.known, keyID)
		makeRoom(c.unknown, maxUnknown, func(until time.Time) bool { return !started.Before(until) })
		c.unknown[keyID] = started.Add(unknownFor)
		return
	}
	delete(c.unknown, keyID)
	if _, ok := c.known[keyID]; !ok {
		makeRoom(c.known, maxKnown, func(e entry) bool { return started.Sub(e.checked) >= Grace })
	}
	c.known[keyID] = entry{row: r, checked: started}
}

// forget makes the next get look again.
func (c *cache) forget(keyID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, keyID)
	delete(c.unknown, keyID)
	c.forgotten++
	c.flights.Forget(keyID)
}

func (c *cache) sizes() (known, unknown int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.known), len(c.unknown)
}

// makeRoom drops what is out of date from a map that is full, and when nothing
// is, any tenth of it: going through the whole map is then rare enough.
func makeRoom[V any](m map[string]V, limit int, outdated func(V) bool) {
	if len(m) < limit {
		return
	}
	for id, v := range m {
		if outdated(v) {
			delete(m, id)
		}
	}
	for id := range m {
		if len(m) < limit-limit/10 {
			return
		}
		delete(m, id)
	}
}
