package ws

import (
	"sync/atomic"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
)

// outgoing is a batch as it goes out.
type outgoing struct {
	frames []byte
	units  []unit
}

// unit is the smallest part of a batch that is sent or not: a message, and in
// plain mode the ping that asks about it.
type unit struct {
	end     int // in frames
	events  int // of the batch, up to here
	through int64
}

// unit returns the one that a write ended in, after n bytes. At the end of one it
// is the next: a full connection has to keep something that tells when there is room.
func (o *outgoing) unit(n int) unit {
	for _, u := range o.units {
		if n < u.end {
			return u
		}
	}
	return o.units[len(o.units)-1]
}

// encode appends a batch. In plain mode gaps cannot be told; they are counted.
func (t *transport) encode(out *outgoing, batch hub.Batch) {
	after := batch.After
	for first := 0; first < len(batch.Events); {
		next := first + 1
		if !t.v1 {
			next = first + t.pace.take(batch.Events[first:])
		}
		part := hub.Batch{After: after, Page: events.Page{Events: batch.Events[first:next], Through: batch.Events[next-1].Seq}}
		if t.v1 {
			out.frames = appendV1(out.frames, part)
		} else {
			out.frames = appendPlain(out.frames, part)
		}
		out.units = append(out.units, unit{len(out.frames), next, part.Through})
		first, after = next, part.Through
	}
	switch {
	case after == batch.Through:
	case t.v1:
		out.frames = appendGap(out.frames, after+1, batch.Through)
		out.units = append(out.units, unit{len(out.frames), len(batch.Events), batch.Through})
	case len(out.units) > 0:
		out.units[len(out.units)-1].through = batch.Through
	}
}

// How often a plain client is pinged between messages.
const (
	paceEvery = 250 * time.Millisecond
	paceBytes = 4 << 10
)

// pace says after how many messages a plain client is asked to confirm. A pong for
// every message would make the return of a fast client cost twice as much; a client
// that takes half a minute for a message must be able to confirm each. So it is as
// many as the client confirms in paceEvery, one to begin with, and at most paceBytes.
type pace struct {
	messages atomic.Int64

	// The reader's alone.
	seq int64
	at  time.Time
}

// confirmed notes a confirmation.
func (p *pace) confirmed(seq int64, now time.Time) {
	if p.at.IsZero() {
		p.seq, p.at = seq, now
		return
	}
	n, since := seq-p.seq, now.Sub(p.at)
	switch {
	case since >= paceEvery:
		p.messages.Store(n * int64(paceEvery) / int64(since))
		p.seq, p.at = seq, now
	case n > p.messages.Load():
		p.messages.Store(n)
	}
}

// take returns how many of the events go out before the next ping; at least one.
func (p *pace) take(list []events.Event) int {
	most, size := p.messages.Load(), 0
	for i := range list {
		size += len(list[i].Payload)
		if int64(i) >= most || size > paceBytes {
			return max(i, 1)
		}
	}
	return len(list)
}
