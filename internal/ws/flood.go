package ws

import (
	"context"
	"time"

	"restante/internal/hub"
)

// What one client may send that confirms nothing new: pings, pongs of its own accord,
// acks that repeat, and what plain clients say. Acks that confirm something are
// bounded by what was sent. An honest client sends a few frames a minute; four
// sockets that sent millions of pings took a core.
const (
	idleFrames = 100 // a second
	idleBurst  = 10 * idleFrames
)

// flood counts one connection's frames that confirm nothing. Only the reader uses it.
type flood struct {
	free      int64 // when the burst is whole again, in Unix nanoseconds
	confirmed int64 // the highest seq that an ack named
}

// take counts one frame and reports whether it is one too many.
func (f *flood) take(now time.Time) (over bool) {
	const each = int64(time.Second / idleFrames)
	f.free = max(f.free, now.UnixNano()) + each
	return f.free-now.UnixNano() > idleBurst*each
}

// ack takes back the count of an ack that confirms something new.
func (f *flood) ack(seq int64) {
	if seq > f.confirmed {
		f.confirmed = seq
		f.free -= int64(time.Second / idleFrames)
	}
}

// ping is called by the reader; what it returns is whether a pong is sent.
func (t *transport) ping(context.Context, []byte) bool {
	if t.flood.take(time.Now()) {
		t.session.End(hub.TooManyFrames)
		return false
	}
	return true
}
