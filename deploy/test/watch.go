package main

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// watch looks at the load all the time, for disturbances that people would notice: a
// device without a connection, nobody answered for half a second, messages that have
// not arrived.
type watch struct {
	*load
	want    int64 // devices
	posting atomic.Bool

	mu      sync.Mutex // guards what is below
	last    time.Duration
	silence time.Duration // the longest since the phase began
}

const (
	lookEvery = 20 * time.Millisecond
	silent    = 500 * time.Millisecond
	waiting   = 100 // messages on their way: half a second's worth
	wellFor   = 2 * time.Second
	draining  = 1012 // close code of a replica that is being replaced
)

func (w *watch) run(ctx context.Context) {
	for pause(ctx, lookEvery) == nil {
		now := w.now()
		since := now - time.Duration(w.lastAccepted.Load())
		bad := w.connected.Load() < w.want
		if w.posting.Load() {
			bad = bad || since > silent || w.check.Waiting() > waiting
		}
		w.mu.Lock()
		if w.posting.Load() {
			w.silence = max(w.silence, since)
		}
		if bad {
			w.last = now
		}
		w.mu.Unlock()
	}
}

func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silence = 0
}

// disturbed is when all was last not well.
func (w *watch) disturbed() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

func (w *watch) longestSilence() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.silence
}

// calm waits until all has been well for a while.
func (w *watch) calm(ctx context.Context, within time.Duration) error {
	for until := w.now() + within; ; {
		if err := pause(ctx, lookEvery); err != nil {
			return err
		}
		if w.connected.Load() == w.want && w.now()-max(w.disturbed(), w.failedLast(), time.Duration(w.lastLate.Load())) > wellFor {
			return nil
		}
		if w.now() > until {
			return wrong("not well after %s: %d of %d devices connected, %d messages on their way; devices say %v",
				within, w.connected.Load(), w.want, w.check.Waiting(), w.saidByDevices())
		}
	}
}

// addresses make every error of the network another one.
var addresses = regexp.MustCompile(`127\.0\.0\.1:\d+(->127\.0\.0\.1:\d+)?:? ?`)

// phaseSeen is what went wrong in a phase.
type phaseSeen struct {
	failed   []string
	kinds    map[string]int // of failed, how often each
	lastFail time.Duration
	after    []int64 // when devices were told to come back, in milliseconds, sorted
}

func (l *load) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed, l.byes, l.errors = nil, nil, map[string]int{}
	l.slowest.Store(0)
}

func (l *load) end() phaseSeen {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := phaseSeen{failed: l.failed, lastFail: l.lastFail, kinds: map[string]int{}}
	for _, text := range l.failed {
		seen.kinds[addresses.ReplaceAllString(text, "")]++
	}
	for _, f := range l.byes {
		if f.Code == draining {
			seen.after = append(seen.after, f.ReconnectAfterMs)
		}
	}
	slices.Sort(seen.after)
	return seen
}

func (l *load) failedLast() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastFail
}

func (l *load) saidByDevices() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.errors)
}
