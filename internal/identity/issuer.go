package identity

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

const (
	// maxAge is how long keys are used without asking whether they are still
	// the issuer's.
	maxAge = time.Hour
	// maxStale is how long they are used while the issuer cannot be asked.
	maxStale = 24 * time.Hour

	firstBackoff = time.Second
	// maxFirstBackoff keeps the wait short for an issuer that starts after us;
	// once there are keys, RefetchInterval is the longest wait.
	maxFirstBackoff = 5 * time.Second
)

// issuer holds the keys of one OIDC issuer.
type issuer struct {
	url      string
	client   *http.Client
	interval time.Duration // Config.RefetchInterval
	timeout  time.Duration
	now      func() time.Time
	metrics  metrics

	flight singleflight.Group

	mu       sync.Mutex
	keys     []jose.JSONWebKey // replaced whole, never changed; nil until the first success
	version  int               // of keys, counts successes
	fetched  time.Time         // when keys was fetched
	next     time.Time         // no fetch before
	renewing bool              // somebody is asking whether old keys are still good
	failures int               // since the last success
	cause    error             // of the last failure, nil after a success
}

// current returns the keys to check with, and their version. It fetches them
// when there are none, or when they are older than maxAge; in the latter case
// one caller waits for that, and the others go on with what there is.
func (i *issuer) current(ctx context.Context) ([]jose.JSONWebKey, int, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.now()
	age := now.Sub(i.fetched)
	if i.keys != nil && (age < maxAge || age < maxStale && (i.renewing || now.Before(i.next))) {
		return i.keys, i.version, nil
	}
	i.renewing = true
	i.mu.Unlock()
	i.fetch(ctx)
	i.mu.Lock()
	i.renewing = false
	if i.keys == nil || i.now().Sub(i.fetched) >= maxStale {
		return nil, 0, fmt.Errorf("%w: %w", ErrUnavailable, i.cause)
	}
	return i.keys, i.version, nil
}

// newer returns keys of another version than the one that was tried in vain. It
// returns none when the issuer has just been asked and has no others, and
// ErrUnavailable when it was asked and did not answer.
func (i *issuer) newer(ctx context.Context, tried int) ([]jose.JSONWebKey, error) {
	i.mu.Lock()
	same := i.version == tried
	i.mu.Unlock()
	if same {
		i.fetch(ctx)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	switch {
	case i.version != tried:
		return i.keys, nil
	case i.cause != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, i.cause)
	}
	return nil, nil
}

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
		keys, err := fetchKeys(ctx, i.client, i.url)
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
		i.keys, i.fetched, i.cause, i.failures = keys, now, nil, 0
		i.version++
		i.next = now.Add(i.interval)
		return nil, nil
	})
}

// backoff is the wait after a failure. mu must be held.
func (i *issuer) backoff() time.Duration {
	longest := i.interval
	if i.keys == nil {
		longest = min(longest, maxFirstBackoff)
	}
	return min(firstBackoff<<min(i.failures, 10), longest)
}
