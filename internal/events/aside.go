package events

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of what waits for locked streams.
const (
	asideRequests = 8192     // requests aside
	asideBytes    = 32 << 20 // payload bytes aside
	asidePerUser  = 4        // a stream may take one part in so many of either

	asideSoon   = 5 * time.Millisecond   // until the next look while a stream may just be busy
	asideEvery  = 20 * time.Millisecond  // until the next look while all are locked for longer
	asideLong   = 100 * time.Millisecond // of being locked at every look; then the stream is waited for
	asideWait   = 200 * time.Millisecond // wait for one stream
	asideCreate = 10 * time.Millisecond  // wait for a stream that somebody else may be creating
	asideRound  = 250 * time.Millisecond // after which a round starts anew
	asideKnown  = time.Minute            // a locked stream is remembered after its last request
	carefulStep = 500 * time.Millisecond // of careful commits for each lock timeout but the first
	carefulMost = 5 * time.Second
)

// aside holds the append requests whose streams somebody else keeps locked, and tries
// them again on a connection of its own, so that no commit of other streams waits.
// A stream that is aside keeps its requests in the order of their arrival; later
// requests join them instead of trying themselves.
//
// What an Append with several users is, all or nothing, it is here as well: it waits
// for the first of its streams that was found locked, and holds up no other.
type aside struct {
	store   appendStore
	log     outcome
	metrics *metrics
	careful atomic.Int64  // Unix ms until which commits have to leave out locked streams
	wake    chan struct{} // has room for one: something is aside
	waiting chan struct{} // has room for one: somebody waits for streams
	waits   sync.WaitGroup
	ended   chan struct{} // closed when nothing is tried any more

	mu       sync.Mutex // guards all below
	streams  map[string]*asideStream
	requests int
	bytes    int
	closed   bool      // nothing is tried any more
	timeout  time.Time // the last
	timeouts int       // with less than carefulMost in between
}

// asideStream is a stream that was locked by somebody else, and perhaps still is.
type asideStream struct {
	user     string
	requests []asideRequest // oldest first
	bytes    int
	since    time.Time // found locked
	used     time.Time // when the last request came
	waits    int       // how often it was waited for in vain
	busy     bool      // its requests are being tried by whoever waits for it
}

type asideRequest struct {
	*appendRequest
	until  time.Time    // when its sender is told that the stream is locked
	stream *asideStream // whose line it is in
}

// outcome answers requests.
type outcome interface {
	committed(batch []*appendRequest, heads []Head)
	failed(batch []*appendRequest, err error)
}

func newAside(cfg Config, m *metrics) *aside {
	s := &aside{store: appendStore{pool: cfg.Durable, deliverDelay: cfg.DeliverDelay, maxPending: cfg.MaxPending, history: cfg.History}, metrics: m, ended: make(chan struct{}),
		wake: make(chan struct{}, 1), waiting: make(chan struct{}, 1), streams: map[string]*asideStream{}}
	gauge := func(name, help string, value func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			s.mu.Lock()
			defer s.mu.Unlock()
			return float64(value())
		})
	}
	cfg.Metrics.MustRegister(
		gauge("restante_append_locked_streams", "Streams that somebody else keeps locked, as far as messages for them have come.", func() int { return len(s.streams) }),
		gauge("restante_append_aside_requests", "Append requests that wait for a locked stream.", func() int { return s.requests }),
	)
	return s
}

var errStreamLocked = fmt.Errorf("append events: %w: the stream is locked", ErrUnavailable)

// suspicious reports whether more streams may be locked than are known.
func (s *aside) suspicious() bool { return time.Now().UnixMilli() < s.careful.Load() }

// suspect is told of a commit that has run into its lock timeout. One locked stream is
// known from then on, so the next commit is a plain one again, which takes half as
// long. Several timeouts in a row mean that somebody has locked many.
func (s *aside) suspect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.timeout) > carefulMost {
		s.timeouts = 0
	}
	s.timeout = now
	s.careful.Store(now.Add(min(time.Duration(s.timeouts)*carefulStep, carefulMost)).UnixMilli())
	s.timeouts++
}

// divert takes the requests of streams that are aside out of a batch.
func (s *aside) divert(batch []*appendRequest) (rest []*appendRequest) {
	s.mu.Lock()
	if len(s.streams) == 0 {
		s.mu.Unlock()
		return batch
	}
	rest = make([]*appendRequest, 0, len(batch))
	var refused []*appendRequest
	for _, r := range batch {
		i := slices.IndexFunc(r.msgs, func(m Message) bool { return s.streams[m.UserID] != nil })
		switch {
		case i < 0:
			rest = append(rest, r)
		case !s.push(s.streams[r.msgs[i].UserID], asideRequest{appendRequest: r, until: time.Now().Add(commitTimeout)}):
			refused = append(refused, r)
		}
	}
	s.mu.Unlock()
	s.log.failed(refused, errStreamLocked)
	return rest
}

// add sets requests aside, and with them the streams that were found locked.
func (s *aside) add(requests []*appendRequest, locked map[string]bool) {
	until := time.Now().Add(commitTimeout)
	again := make([]asideRequest, len(requests))
	for i, r := range requests {
		again[i] = asideRequest{appendRequest: r, until: until}
	}
	s.hold(again, locked)
	signal(s.wake)
}

// hold puts each request in the line of a locked stream of its own.
func (s *aside) hold(requests []asideRequest, locked map[string]bool) {
	s.mu.Lock()
	for user := range locked {
		if s.streams[user] == nil {
			s.streams[user] = &asideStream{user: user, since: time.Now(), used: time.Now()}
		}
	}
	var refused []*appendRequest
	for _, r := range requests {
		i := slices.IndexFunc(r.msgs, func(m Message) bool { return locked[m.UserID] })
		if s.closed || i < 0 || !s.push(s.streams[r.msgs[i].UserID], r) {
			refused = append(refused, r.appendRequest)
		}
	}
	s.mu.Unlock()
	s.log.failed(refused, errStreamLocked)
}

// push queues a request and reports whether there was room.
func (s *aside) push(to *asideStream, r asideRequest) bool {
	to.used = time.Now()
	full := s.requests >= asideRequests || s.bytes+r.bytes > asideBytes && s.requests > 0
	share := len(to.requests) >= asideRequests/asidePerUser || to.bytes+r.bytes > asideBytes/asidePerUser && len(to.requests) > 0
	if full || share {
		return false
	}
	if r.stream == nil {
		s.metrics.setAside.Inc()
	}
	r.stream = to
	to.requests = append(to.requests, r)
	to.bytes += r.bytes
	s.requests++
	s.bytes += r.bytes
	return true
}

// remove takes requests out of a stream's line.
func (s *aside) remove(from *asideStream, which func(asideRequest) bool) (removed []*appendRequest) {
	from.requests = slices.DeleteFunc(from.requests, func(r asideRequest) bool {
		if !which(r) {
			return false
		}
		removed = append(removed, r.appendRequest)
		from.bytes -= r.bytes
		s.requests--
		s.bytes -= r.bytes
		return true
	})
	return removed
}

// run tries what is aside until ctx ends, and then answers what is left.
func (s *aside) run(ctx context.Context) {
	pause := time.NewTimer(0)
	<-pause.C
	for ctx.Err() == nil {
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
		for ctx.Err() == nil {
			next := s.round(context.WithoutCancel(ctx))
			if s.empty() {
				break
			}
			pause.Reset(next)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
	}
	s.waits.Wait()
	s.close()
	close(s.ended)
}

func (s *aside) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams) == 0
}

func (s *aside) close() {
	s.mu.Lock()
	s.closed = true
	var left []*appendRequest
	for _, stream := range s.streams {
		left = append(left, s.remove(stream, func(asideRequest) bool { return true })...)
	}
	clear(s.streams)
	s.mu.Unlock()
	s.log.failed(left, fmt.Errorf("append events: %w: the replica stops", ErrUnavailable))
}
