package identity

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	// maxAge is how long keys are used without asking whether they are still
	// the issuer's.
	maxAge = time.Hour
	// maxStale is how long they are used while the issuer cannot be asked.
	maxStale = 24 * time.Hour

	// quickFetches may follow each other at once, so that the first token of a new key
	// is accepted, and one of an unknown key is refused, without a wait. After that, and
	// until an interval has gone by, a flood of invented key ids causes one an interval.
	quickFetches = 5

	firstBackoff = time.Second
	// maxFirstBackoff keeps the wait short for an issuer that starts after us;
	// once there are keys, RefetchInterval is the longest wait.
	maxFirstBackoff = 5 * time.Second
)

// issuer holds the keys of one OIDC issuer.
type issuer struct {
	source   source
	client   *http.Client
	interval time.Duration // Config.RefetchInterval
	timeout  time.Duration
	now      func() time.Time
	metrics  metrics

	flight singleflight.Group

	mu       sync.Mutex
	known    published // replaced whole, never changed; without keys until the first success
	version  int       // of known, counts successes
	fetched  time.Time // when known was fetched
	next     time.Time // no fetch before
	quick    int       // fetches that need not wait for the interval
	renewing bool      // somebody is asking whether old keys are still good
	failures int       // since the last success
	cause    error     // of the last failure, nil after a success
}

// current returns what to check with, and its version. It fetches them
// when there are none, or when they are older than maxAge; in the latter case
// one caller waits for that, and the others go on with what there is.
func (i *issuer) current(ctx context.Context) (published, int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.now()
	age := now.Sub(i.fetched)
	if i.known.keys != nil && (age < maxAge || age < maxStale && (i.renewing || now.Before(i.next))) {
		return i.known, i.version, nil
	}
	i.renewing = true
	i.mu.Unlock()
	i.fetch(ctx)
	i.mu.Lock()
	i.renewing = false
	if i.known.keys == nil || i.now().Sub(i.fetched) >= maxStale {
		return published{}, 0, fmt.Errorf("%w: %w", ErrUnavailable, i.cause)
	}
	return i.known, i.version, nil
}

// newer returns what the issuer publishes in another version than the one that was
// tried in vain. It returns the same when that was read after since, errHeldBack when
// it is too early to ask again, and ErrUnavailable when the issuer did not answer. A
// key that is not known may be asked for sooner than a better one of the same name.
func (i *issuer) newer(ctx context.Context, tried int, since time.Time, unknown bool) (published, error) {
	i.mu.Lock()
	same := i.version == tried
	if same && !unknown && i.now().Before(i.fetched.Add(i.interval)) {
		defer i.mu.Unlock()
		return published{}, errHeldBack
	}
	if same && !i.fetched.Before(since) {
		defer i.mu.Unlock()
		return i.known, nil
	}
	i.mu.Unlock()
	if same {
		i.fetch(ctx)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.version != tried:
		return i.known, nil
	case i.cause != nil:
		return published{}, fmt.Errorf("%w: %w", ErrUnavailable, i.cause)
	}
	return published{}, errHeldBack
}

// errHeldBack: the issuer may have new keys, and is not asked yet, for anybody can
// send tokens with invented key ids.
var errHeldBack = fmt.Errorf("%w: the token's key is not known, and the issuer was asked for its keys just now", ErrUnavailable)

// fetch replaces the keys, unless it is too early for that. Those who call it at
// the same time share one fetch, which goes on when one of them leaves; it ends
// within the timeout. What has come of it is in the fields.
func (i *issuer) fetch(ctx context.Context) {
	_, _, _ = i.flight.Do("", func() (any, error) {
		i.mu.Lock()
		early := i.now().Before(i.next)
		i.mu.Unlock()
		if early {
			return nil, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.timeout)
		defer cancel()
		found, err := i.source.fetch(ctx, i.client)
		i.metrics.countFetch(err)

		i.mu.Lock()
		defer i.mu.Unlock()
		now := i.now()
		if err != nil {
			i.cause = err
			i.next = now.Add(i.backoff())
			i.failures++
			return nil, nil
		}
		if now.Sub(i.fetched) >= i.interval {
			i.quick = quickFetches
		}
		i.known, i.fetched, i.cause, i.failures = found, now, nil, 0
		i.version++
		if i.next = now; i.quick == 0 {
			i.next = now.Add(i.interval)
		} else {
			i.quick--
		}
		return nil, nil
	})
}

// backoff is the wait after a failure. mu must be held.
func (i *issuer) backoff() time.Duration {
	longest := i.interval
	if i.known.keys == nil {
		longest = min(longest, maxFirstBackoff)
	}
	return min(firstBackoff<<min(i.failures, 10), longest)
}
