package e2e

import (
	"io"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"restante/internal/testdb"
)

// TestBadFrames sends what a client of restante.v1 gets wrong: its connection is
// closed with the code of the README, and the next one works.
func TestBadFrames(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s := w.server()
	(&publisher{w: w, number: 1}).posts(s, "ann", 1)
	for _, c := range []struct {
		name, frame string
		kind        websocket.MessageType
		code        websocket.StatusCode
	}{
		{"no JSON", "ack 1", websocket.MessageText, websocket.StatusPolicyViolation},
		{"unknown kind", `{"kind":"nack","seq":1}`, websocket.MessageText, websocket.StatusPolicyViolation},
		{"unknown field", `{"kind":"ack","seq":1,"x":1}`, websocket.MessageText, websocket.StatusPolicyViolation},
		{"no seq", `{"kind":"ack"}`, websocket.MessageText, websocket.StatusPolicyViolation},
		{"beyond what was sent", `{"kind":"ack","seq":99}`, websocket.MessageText, websocket.StatusPolicyViolation},
		{"negative", `{"kind":"ack","seq":-1}`, websocket.MessageText, websocket.StatusPolicyViolation},
		{"not a number", `{"kind":"ack","seq":"1"}`, websocket.MessageText, websocket.StatusPolicyViolation},
		{"binary", `{"kind":"ack","seq":1}`, websocket.MessageBinary, websocket.StatusPolicyViolation},
		{"too long", `{"kind":"ack","seq":1` + strings.Repeat(" ", 5000) + "}", websocket.MessageText, websocket.StatusMessageTooBig},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := unconfirming(t, w, s, "ann")
			err := conn.Write(t.Context(), c.kind, []byte(c.frame))
			if err != nil {
				t.Fatal(err)
			}
			var reads io.Reader
			for err == nil {
				if _, reads, err = conn.Reader(t.Context()); err == nil {
					_, err = io.Copy(io.Discard, reads)
				}
			}
			if code := websocket.CloseStatus(err); code != c.code {
				t.Errorf("closed with %d (%v), want %d", code, err, c.code)
			}
		})
	}
	// Nothing of it has confirmed the message.
	w.connect(s, "ann")
	w.verdict()
}
