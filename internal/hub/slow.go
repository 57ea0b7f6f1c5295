package hub

import (
	"time"

	"restante/internal/events"
)

// pieceBytes is about how much is written at once. What a slow client confirms is
// counted in pieces, and a client whose connection is full costs no more than the
// piece that did not fit.
const pieceBytes = 16 << 10

// wholePage is when a client that was slow is read whole pages for again.
const wholePage = 128 << 10

// eventOverhead stands for what a frame adds to a payload.
const eventOverhead = 128

// split cuts off a piece of about pieceBytes, at least one event. The rest is empty
// (After equals Through) when the piece is all there was.
func (b Batch) split() (piece, rest Batch) {
	size := 0
	for i := range b.Events {
		size += len(b.Events[i].Payload) + eventOverhead
		if i == 0 || size <= pieceBytes {
			continue
		}
		cut := b.Events[i-1].Seq
		piece = Batch{After: b.After, Page: events.Page{Events: b.Events[:i], Through: cut}}
		return piece, Batch{After: cut, Page: events.Page{Events: b.Events[i:], Through: b.Through}}
	}
	return b, Batch{After: b.Through, Page: events.Page{Through: b.Through}}
}

// send hands a page to the transport, piece by piece, until the client takes no
// more. The rest of the page is dropped: it is read again once the client is ready.
func (s *Session) send(conn Transport, page Batch) error {
	defer s.adjust()
	for page.Through > page.After {
		var piece Batch
		piece, page = page.split()
		if !s.begin(piece) {
			return nil
		}
		if err := conn.Send(piece); err != nil {
			return err
		}
		s.count(s.sent(piece))
	}
	return nil
}

// adjust fits the next page to what the client has taken of this one. What does not
// fit is read again: a client that takes 16 KiB at a time must not cost a page of 256
// each time.
func (s *Session) adjust() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.blocked:
		s.pageBytes = pieceBytes
	case s.pageBytes >= wholePage:
		s.pageBytes = 0
	default:
		s.pageBytes *= 2
	}
}

// begin moves the position over a piece before it is written, because the client
// may confirm it before Send returns. It reports false if the piece must not be
// written: the session has ended, or part of the piece before was not written.
func (s *Session) begin(piece Batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.blocked || s.position != piece.After {
		return false
	}
	s.sentAt = time.Now()
	s.window.add(piece.Page, s.sentAt)
	s.position = piece.Through
	return true
}

// sent returns the part of a piece that went out, and since when the client has
// had room: what was appended earlier has waited for it.
func (s *Session) sent(piece Batch) (_ Batch, ready time.Time) {
	s.mu.Lock()
	position := s.position
	ready = s.window.tookAt
	s.mu.Unlock()
	if position >= piece.Through {
		return piece, ready
	}
	n := len(piece.Events)
	for n > 0 && piece.Events[n-1].Seq > position {
		n--
	}
	return Batch{After: piece.After, Page: events.Page{Events: piece.Events[:n], Through: max(piece.After, position)}}, ready
}

// Blocked tells the session that its client takes no more for now. A transport
// calls it from Send, with the part of the batch that is on its way; the rest is
// not, and the session reads it again after Unblocked.
func (s *Session) Blocked(sent Batch) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.blocked {
		s.blocked = true
		s.window.tookAt = now
		if !s.ended {
			s.hub.metrics.blocked.Inc()
		}
	}
	s.position = max(sent.Through, s.confirmed)
	s.window.cut(sent.Page, s.confirmed, now)
}

// Took notes that a client whose connection was full has taken in something: bytes
// that a full socket accepts make up for bytes that the client has read.
func (s *Session) Took() {
	s.mu.Lock()
	s.window.tookAt = time.Now()
	s.mu.Unlock()
}

// Unblocked tells the session that everything it gave to its transport is on its
// way, and that there is room for more.
func (s *Session) Unblocked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.blocked {
		return
	}
	s.blocked = false
	s.window.tookAt = time.Now()
	if !s.ended {
		s.hub.metrics.blocked.Dec()
	}
	s.deliverIfDue()
}

// ConfirmedAt returns when the client last confirmed something; zero if never.
func (s *Session) ConfirmedAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.window.movedAt
}
