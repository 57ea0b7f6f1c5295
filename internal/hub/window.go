package hub

import (
	"time"

	"restante/internal/events"
)

// window is what was sent to a client and not yet confirmed. It keeps a record
// per piece written, not per event.
type window struct {
	writes   []write // oldest first
	messages int
	bytes    int
	movedAt  time.Time // when the client last confirmed something
	tookAt   time.Time // when the client last took bytes of what did not fit in its connection
}

type write struct {
	through    int64
	messages   int
	bytes      int
	writtenAt  time.Time
	appendedAt time.Time // of its last event
}

// full reports whether the client has to confirm before it is sent more.
func (w *window) full(messages, bytes int) bool {
	return w.messages >= messages || w.bytes >= bytes
}

// add notes a piece that is about to be written. A piece of nothing but a gap is
// not waited for: there is no message to confirm.
func (w *window) add(page events.Page, now time.Time) {
	n := len(page.Events)
	if n == 0 {
		return
	}
	last := write{through: page.Events[n-1].Seq, messages: n, writtenAt: now, appendedAt: page.Events[n-1].CreatedAt}
	for i := range page.Events {
		last.bytes += len(page.Events[i].Payload)
	}
	w.writes = append(w.writes, last)
	w.messages += last.messages
	w.bytes += last.bytes
}

// confirm forgets the writes that seq covers, and returns when the last of their
// events was appended; zero if none.
func (w *window) confirm(seq int64, now time.Time) (appendedAt time.Time) {
	w.movedAt = now
	n := 0
	for n < len(w.writes) && w.writes[n].through <= seq {
		appendedAt = w.writes[n].appendedAt
		w.messages -= w.writes[n].messages
		w.bytes -= w.writes[n].bytes
		n++
	}
	if w.writes = w.writes[n:]; len(w.writes) == 0 {
		w.writes = nil // an idle session keeps nothing
	}
	return appendedAt
}

// cut notes that only part of the newest piece was written: sent.
func (w *window) cut(sent events.Page, confirmed int64, now time.Time) {
	last := len(w.writes) - 1
	if last < 0 || w.writes[last].through <= sent.Through {
		return // all of it was, or it was a gap
	}
	w.messages -= w.writes[last].messages
	w.bytes -= w.writes[last].bytes
	w.writes = w.writes[:last]
	if n := len(sent.Events); n > 0 && sent.Events[n-1].Seq > confirmed {
		w.add(sent, now)
	}
}

// stalledSince returns since when the client has made no progress, and whether it
// owes a confirmation. One that works through a long backlog and confirms as it
// goes, or still takes in a message that fills its connection, is slow, not
// stalled: to end its session would only send it the same again.
func (w *window) stalledSince() (since time.Time, waiting bool) {
	since = w.movedAt
	if w.tookAt.After(since) {
		since = w.tookAt
	}
	if waiting = len(w.writes) > 0; waiting && w.writes[0].writtenAt.After(since) {
		since = w.writes[0].writtenAt
	}
	return since, waiting
}
