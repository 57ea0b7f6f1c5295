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
	a := &API{cfg: Config{MaxMessageBytes: 1 << 10, MaxBodyBytes: 8 << 20, BodyTimeout: time.Second}}
	body := "[" + strings.Repeat(" ", 4<<20) + "]"
	var open []*exchange
	var refused *problem
	for range 100 {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/v1/messages", io.NopCloser(strings.NewReader(body)))
		r.Header.Set("Content-Type", "application/json")
		x := &exchange{ResponseWriter: w}
		open = append(open, x)
		if refused = a.readBody(x, r, a.buffers.get()); refused != nil {
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
	if a.large.Load() != reserved || reserved > largeBodies {
		t.Errorf("%d bytes are reserved, of which the exchanges know %d", a.large.Load(), reserved)
	}
}
