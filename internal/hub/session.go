package hub

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"sync"
	"time"

	"restante/internal/events"
)

// ErrBeyondSent: a client confirmed a message that it was never sent.
var ErrBeyondSent = errors.New("acknowledged a message that was not sent")

// Transport carries events to one client. Its methods are not called
// concurrently with themselves; Close may come at any time.
type Transport interface {
	// Send writes a batch, about 16 KiB or one larger message, and asks the client to
	// confirm it. It does not wait for a client that is slow: it keeps no more than
	// the message that is partly written, calls Session.Blocked, and Session.Unblocked
	// when that has gone out. After an error the connection is of no more use.
	Send(Batch) error
	// Ping shows the client a sign of life, and asks it for one. It does not wait.
	Ping() error
	// Close tells the client why and ends the connection. It does not wait.
	Close(Closing)
}

// Batch is a piece of a stream: the events after a position. Where a seq is
// missing, in between or up to Through, the event is gone: a gap.
type Batch struct {
	After int64
	events.Page
}

// Session is one client connection of a user.
type Session struct {
	hub       *Hub
	id        string
	userID    string
	transport string // metric label
	openedAt  time.Time
	expiresAt time.Time
	head      int64 // of the stream when the session was attached; set by Open

	mu         sync.Mutex // guards all below; never held while reading or writing
	conn       Transport  // nil until Start
	attached   bool
	ended      bool
	why        *Closing // of a session that ended before Start
	delivering bool     // a goroutine runs deliver
	blocked    bool     // the connection is full: nothing is sent until Unblocked
	pageBytes  int      // how much is read at once for a client that is slow; 0 for a whole page
	look       bool     // read the log, whatever is known of its head
	known      int64    // highest head heard of
	position   int64    // everything up to here was read and handed to the transport
	confirmed  int64    // everything up to here was confirmed by the client
	window     window
	heardAt    time.Time // last sign of life
	pingedAt   time.Time // last ping that is not answered; zero if none
	sentAt     time.Time // last write
}

// Open makes a session of a user and attaches it; it is woken from then on, and
// delivers once Start gives it a transport. The caller ends it with End.
//
// Errors: ErrDraining, ErrTooManySessions, events.ErrUnavailable.
func (h *Hub) Open(ctx context.Context, userID, transport string) (*Session, error) {
	now := time.Now()
	spread := 0.9 + 0.2*mrand.Float64() // so that sessions opened together do not end together
	s := &Session{
		hub: h, id: rand.Text(), userID: userID, transport: transport,
		openedAt: now, expiresAt: now.Add(time.Duration(spread * float64(h.cfg.MaxAge))), heardAt: now, sentAt: now,
	}
	if err := h.register(s); err != nil {
		h.metrics.refused.WithLabelValues(refusal(err)).Inc()
		return nil, fmt.Errorf("open session: %w", err)
	}
	positions, err := h.registry.Attach(ctx, s.record())
	if err != nil {
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		h.unregister(s)
		h.metrics.refused.WithLabelValues(refusal(err)).Inc()
		return nil, fmt.Errorf("open session: %w", err)
	}
	at := positions[userID]
	s.head = at.Head
	s.mu.Lock()
	s.attached = true
	s.position, s.confirmed, s.known = at.Acked, at.Acked, max(s.known, at.Head)
	s.mu.Unlock()
	h.metrics.opened.WithLabelValues(transport).Inc()
	h.metrics.sessions.WithLabelValues(transport).Inc()
	return s, nil
}

func refusal(err error) string {
	switch {
	case errors.Is(err, ErrDraining):
		return "draining"
	case errors.Is(err, ErrTooManySessions):
		return "too_many"
	}
	return "unavailable"
}

// ID identifies the session in presence and logs.
func (s *Session) ID() string { return s.id }

// Position returns what the client has confirmed, and the head when the session was
// attached: no wake moves that, for the log alone says what a client is told.
func (s *Session) Position() events.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return events.Position{Acked: s.confirmed, Head: s.head}
}

// OfOtherEpoch reports whether the epoch that a client brings, "" for none, is not the
// log's, and counts that as a gap: everything before where the session began may be
// something else than what the client knows.
func (s *Session) OfOtherEpoch(epoch string) bool {
	if epoch == "" || epoch == s.hub.cfg.Epoch {
		return false
	}
	s.hub.metrics.gaps.Inc()
	return true
}

// Start gives the session its transport; delivery begins with what was pending
// when the session was attached. A session that has ended meanwhile closes it.
func (s *Session) Start(conn Transport) {
	s.mu.Lock()
	why := s.why
	if why == nil {
		s.conn = conn
		if s.due() {
			s.hub.metrics.wakes.WithLabelValues(fromConnect).Inc()
		}
		s.deliverIfDue()
	}
	s.mu.Unlock()
	if why != nil {
		conn.Close(*why)
	}
}

// End ends the session, whoever found out first; later calls do nothing.
func (s *Session) End(why Closing) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	conn := s.conn
	if conn == nil {
		s.why = &why
	}
	if s.blocked {
		s.hub.metrics.blocked.Dec()
	}
	s.mu.Unlock()
	s.hub.unregister(s)
	s.hub.metrics.sessions.WithLabelValues(s.transport).Dec()
	s.hub.metrics.closed.WithLabelValues(s.transport, why.Label).Inc()
	if conn != nil {
		conn.Close(why)
	}
}

// Ack confirms every event up to seq. ErrBeyondSent: it was not sent yet.
func (s *Session) Ack(seq int64) error {
	now := time.Now()
	s.mu.Lock()
	s.heardAt, s.pingedAt = now, time.Time{}
	if seq > s.position {
		s.mu.Unlock()
		return ErrBeyondSent
	}
	if seq <= s.confirmed {
		s.mu.Unlock()
		return nil
	}
	s.confirmed = seq
	appendedAt := s.window.confirm(seq, now)
	s.deliverIfDue()
	s.mu.Unlock()
	if appendedAt.After(s.openedAt) {
		s.hub.metrics.ackDelay.Observe(now.Sub(appendedAt).Seconds())
	}
	s.hub.log.Ack(s.userID, seq)
	return nil
}

// Heard notes a sign of life that confirms nothing.
func (s *Session) Heard() {
	s.mu.Lock()
	s.heardAt, s.pingedAt = time.Now(), time.Time{}
	s.mu.Unlock()
}

func (s *Session) wake(head int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if head > 0 {
		s.known = max(s.known, head)
	} else {
		// Somebody says that something is pending here: if it is because the write
		// of an ack was lost, nobody would ever repeat it.
		s.look = true
		if s.confirmed > 0 {
			s.hub.log.Ack(s.userID, s.confirmed)
		}
	}
	s.deliverIfDue()
}

// deliverIfDue starts the delivery loop if there is something to do and nobody
// does it. s.mu must be held.
func (s *Session) deliverIfDue() {
	if s.conn == nil || s.ended || s.delivering || !s.due() {
		return
	}
	s.delivering = true
	s.hub.pumps.Go(s.deliver)
}

// due reports whether the log may hold more for this session and the client has
// room for it. s.mu must be held.
func (s *Session) due() bool {
	return (s.look || s.known > s.position) && !s.blocked && !s.window.full(s.hub.cfg.WindowMessages, s.hub.cfg.WindowBytes)
}

// deliver is the one loop: read the log after the position, write, repeat.
func (s *Session) deliver() {
	failures := 0
	for {
		s.mu.Lock()
		if s.ended || !s.due() {
			s.delivering = false
			s.mu.Unlock()
			return
		}
		after, known, conn, limit := s.position, s.known, s.conn, s.pageBytes
		if s.look {
			known, s.look = 0, false
		}
		s.mu.Unlock()

		page, err := s.hub.log.ReadUpTo(s.hub.life, s.userID, after, known, limit)
		if err != nil {
			// The wake is used up: going back to waiting could wait for ever.
			s.mu.Lock()
			s.look = true
			s.mu.Unlock()
			s.hub.metrics.readFailures.Inc()
			if !s.pause(failures) {
				return
			}
			failures++
			continue
		}
		failures = 0
		if !s.take(page, known) {
			continue
		}
		if err := s.send(conn, Batch{After: after, Page: page}); err != nil {
			s.stopDelivering()
			s.End(Unreachable)
			return
		}
	}
}

// take reports whether there is anything to send in a page.
func (s *Session) take(page events.Page, known int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if page.Through <= s.position {
		// Nothing new. A head that the log does not reach was never ours: it
		// belongs to another epoch.
		if known > 0 && s.known == known {
			s.known = s.position
		}
		return false
	}
	s.known = max(s.known, page.Through, page.Head)
	return true
}

// pause waits before a read is repeated, and reports whether to go on.
func (s *Session) pause(failures int) bool {
	wait := min(20*time.Millisecond<<min(failures, 6), time.Second)
	timer := time.NewTimer(wait/2 + mrand.N(wait))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.hub.life.Done():
		s.stopDelivering()
		return false
	}
}

func (s *Session) stopDelivering() {
	s.mu.Lock()
	s.delivering = false
	s.mu.Unlock()
}

// count observes what was written to a client that has had room since a time: the
// delay of a message that waited for its client is not the gateway's.
func (s *Session) count(batch Batch, ready time.Time) {
	m := &s.hub.metrics
	now := time.Now()
	m.written.Add(float64(len(batch.Events)))
	if missing := batch.Through - batch.After - int64(len(batch.Events)); missing > 0 {
		m.gaps.Inc()
	}
	if ready.Before(s.openedAt) {
		ready = s.openedAt
	}
	for i := range batch.Events {
		if appended := batch.Events[i].CreatedAt; appended.After(ready) {
			m.writeDelay.Observe(max(0, now.Sub(appended).Seconds()))
		}
	}
}

func (s *Session) record() events.Session {
	return events.Session{ID: s.id, UserID: s.userID, ReplicaID: s.hub.cfg.ReplicaID, Transport: s.transport, ConnectedAt: s.openedAt}
}
