package api

import (
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Many long bodies at once are refused before they take all the memory, and what
// they took is free again after them.
func TestLongBodiesAreBounded(t *testing.T) {
	t.Parallel()
	a := &API{cfg: Config{MaxMessageBytes: 1 << 10, MaxBodyBytes: 8 << 20, BodyTimeout: time.Second}, bodies: newShares(bodyMemory, 3)}
	body := "[" + strings.Repeat(" ", 4<<20) + "]"
	var open []*exchange
	var refused *problem
	for range 100 {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/v1/messages", io.NopCloser(strings.NewReader(body)))
		r.Header.Set("Content-Type", "application/json")
		x := &exchange{ResponseWriter: w}
		open = append(open, x)
		if _, refused = a.readBody(x, r); refused != nil {
			break
		}
	}
	if refused == nil || refused.kind != overloaded {
		t.Fatalf("100 bodies of 4 MiB were all read: %v", refused)
	}
	if n := len(open); n < 10 {
		t.Errorf("already body %d was refused", n)
	}
	var reserved int64
	for _, x := range open {
		reserved += x.reserved
	}
	if taken := bodyMemory - a.bodies.free; taken != reserved || reserved > bodyMemory {
		t.Errorf("%d bytes are reserved, of which the exchanges know %d", taken, reserved)
	}
}

// trickle is a body that watches how much room is kept for it.
type trickle struct {
	came, step int // bytes, in all and with each read
	total      int
	roomiest   int // the most room beyond what had come
}

func (b *trickle) Read(p []byte) (int, error) {
	b.roomiest = max(b.roomiest, len(p)-b.came)
	n := min(b.step, len(p), b.total-b.came)
	for i := range p[:n] {
		p[i] = ' '
	}
	b.came += n
	if n == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

// A body takes memory for what has come of it, not for what it promises, also when
// longer bodies have left their buffers behind.
func TestMemoryFollowsWhatHasCome(t *testing.T) {
	t.Parallel()
	a := &API{cfg: Config{MaxMessageBytes: 64 << 10, MaxBodyBytes: 8 << 20, BodyTimeout: time.Second}, bodies: newShares(bodyMemory, 3)}
	read := func(length int64, body *trickle) {
		t.Helper()
		r := httptest.NewRequest("POST", "/v1/messages", body)
		r.ContentLength = length
		r.Header.Set("Content-Type", "application/json")
		x := &exchange{ResponseWriter: httptest.NewRecorder()}
		buffer, p := a.readBody(x, r)
		if p == nil || p.kind != incompleteBody {
			t.Errorf("%v", p)
		}
		if body.roomiest > firstBuffer {
			t.Errorf("room for %d bytes more than had come", body.roomiest)
		}
		if most := int64(2*max(body.came, firstBuffer) + spare); int64(cap(*buffer)) > most || length <= longBody && x.reserved > most {
			t.Errorf("%d bytes came, the buffer has %d, %d are reserved", body.came, cap(*buffer), x.reserved)
		}
		a.buffers.put(buffer)
		if x.reserved > 0 {
			a.bodies.put(x.credential, x.reserved)
		}
	}
	for _, length := range []int64{-1, 1 << 20, 256 << 10, 100} {
		read(length, &trickle{step: 1, total: 1})
		read(length, &trickle{step: 7, total: 50})
		if length > 100 || length < 0 {
			read(length, &trickle{step: 1 << 20, total: 200 << 10})
			read(length, &trickle{step: 1000, total: 70_000})
			read(length, &trickle{step: 1, total: 1})
		}
	}
}
