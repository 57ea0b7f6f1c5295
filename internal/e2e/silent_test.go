package e2e

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"testing"

	"github.com/coder/websocket"

	"restante/internal/testdb"
)

// TestHalfOpenSocket: a plain client's machine is there, but its WebSocket reads
// nothing any more. What was written to it is not confirmed, the connection is
// given up, and the next one gets everything, in order.
func TestHalfOpenSocket(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s, patient := w.server("-ack-timeout", "3s"), w.server()
	token, err := s.token(w.idToken("ann"))
	if err != nil {
		t.Fatal(err)
	}
	// Opened by hand: a client library would answer pings.
	half := dialRaw(t, s)
	fmt.Fprintf(half.conn, "GET /ws?token=%s HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAECAwQFBgcICQoLDA0ODw==\r\n\r\n", url.QueryEscape(token))
	response, err := http.ReadResponse(bufio.NewReaderSize(half.conn, 16), nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %v", err)
	}
	p := &publisher{w: w, number: 1}
	p.posts(s, "ann", 5)
	eventually(t, "the messages are written to the socket", func() bool {
		return s.metric("restante_session_messages_written_total", "") == 5
	})
	eventually(t, "the connection is given up", func() bool {
		return s.metric("restante_sessions_closed_total", `reason="no_ack"`) == 1
	})
	p.posts(s, "ann", 5)
	c := w.connect(patient, "ann")
	eventually(t, "everything arrives", func() bool { return len(c.messages()) == 10 })
	w.verdict()
}

// TestClientThatDoesNotConfirm: a restante.v1 client that reads and never
// acknowledges is told why it is sent away.
func TestClientThatDoesNotConfirm(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s, patient := w.server("-ack-timeout", "1s"), w.server()
	(&publisher{w: w, number: 1}).posts(s, "ann", 1)
	conn := unconfirming(t, w, s, "ann")
	var err error
	for err == nil {
		_, _, err = conn.Read(t.Context())
	}
	if websocket.CloseStatus(err) != 4408 {
		t.Errorf("the connection ended with %v", err)
	}
	w.connect(patient, "ann")
	w.verdict()
}

// TestTooManySessions: beyond the limit a user's connection is refused, and the
// others stay.
func TestTooManySessions(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s := w.server("-sessions-per-user", "2")
	first, second := w.connect(s, "ann"), w.connect(s, "ann")
	token, err := s.token(w.idToken("ann"))
	if err != nil {
		t.Fatal(err)
	}
	a := upgrade(w, s, "/v1/connect", token)
	a.problem(t, http.StatusTooManyRequests)
	if a.header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	w.connect(s, "bob")
	first.drop()
	eventually(t, "there is room again", func() bool {
		c, err := w.dial(t.Context(), s, "ann")
		if err == nil {
			t.Cleanup(c.drop)
		}
		return err == nil
	})
	(&publisher{w: w, number: 1}).posts(s, "ann", 3)
	eventually(t, "the second connection has everything", func() bool { return len(second.messages()) == 3 })
	(&publisher{w: w, number: 2}).posts(s, "bob", 1)
	w.verdict()
}

// unconfirming opens a restante.v1 connection that the test reads by itself.
func unconfirming(t *testing.T, w *world, s *server, user string) *websocket.Conn {
	t.Helper()
	token, err := s.token(w.idToken(user))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := websocketTo(t.Context(), s, "/v1/connect", token, "restante.v1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}
