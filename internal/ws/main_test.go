package ws_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"restante/internal/coretest"
	"restante/internal/events"
	"restante/internal/hub"
	"restante/internal/testdb"
	"restante/internal/ws"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// server is a replica with a WebSocket endpoint; the user is named in the query.
type server struct {
	*coretest.Replica
	handler *ws.Handler
	url     string // ws://…
	address string // host:port
}

func serve(t *testing.T, o coretest.Options, change ...func(*ws.Config)) *server {
	t.Helper()
	return serveOn(t, o, func(l net.Listener) net.Listener { return smallBuffers{l} }, change...)
}

// serveOn is serve with a listener of the test's own.
func serveOn(t *testing.T, o coretest.Options, listen func(net.Listener) net.Listener, change ...func(*ws.Config)) *server {
	t.Helper()
	if o.URL == "" {
		o.URL = testdb.New(t).URL
	}
	r := coretest.Start(t, o)
	cfg := ws.Config{Logger: slog.New(slog.DiscardHandler), Metrics: r.Metrics}
	for _, c := range change {
		c(&cfg)
	}
	s := &server{Replica: r, handler: ws.New(r.Hub, cfg)}
	web := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch err := s.handler.Serve(w, req, req.FormValue("user")); {
		case errors.Is(err, ws.ErrOrigin):
			w.WriteHeader(http.StatusForbidden)
		case errors.Is(err, hub.ErrTooManySessions):
			w.WriteHeader(http.StatusTooManyRequests)
		case err != nil:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	web.Listener = listen(web.Listener)
	web.Start()
	s.address = web.Listener.Addr().String()
	s.url = "ws://" + s.address
	t.Cleanup(func() {
		r.Hub.Drain(0)
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		if err := s.handler.Wait(ctx); err != nil {
			t.Errorf("connections are left: %v", err)
		}
		web.Close()
	})
	return s
}

// smallBuffers makes a client that does not read felt soon.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(8 << 10)
	}
	return c, err
}

func (s *server) post(t *testing.T, user string, payloads ...string) {
	t.Helper()
	var msgs []events.Message
	for _, p := range payloads {
		msgs = append(msgs, events.Message{UserID: user, Payload: json.RawMessage(p), Publisher: "test", TTL: time.Hour})
	}
	if _, err := s.Log.Append(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
}

// acked waits until a user's confirmed position is seq.
func (s *server) acked(t *testing.T, user string, seq int64) {
	t.Helper()
	until(t, fmt.Sprint("acked ", seq), func() bool {
		at, err := s.Log.Stream(t.Context(), user)
		return err == nil && at.Acked == seq
	})
}

// gone waits until a user has no session any more.
func (s *server) gone(t *testing.T, user string) {
	t.Helper()
	until(t, "the session is gone", func() bool {
		at, err := s.Log.Stream(t.Context(), user)
		return err == nil && len(at.Sessions) == 0
	})
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not: %s", what)
		}
	}
}

// client is a connection of the library's, as a browser's or wscat's.
type client struct {
	*websocket.Conn
	t *testing.T
}

func (s *server) dial(t *testing.T, user string, protocols ...string) *client {
	t.Helper()
	return s.dialWith(t, user, "", protocols...)
}

// dialWith is dial with more parameters in the URL.
func (s *server) dialWith(t *testing.T, user, parameters string, protocols ...string) *client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, s.url+"?user="+url.QueryEscape(user)+parameters, &websocket.DialOptions{Subprotocols: protocols})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = c.CloseNow() })
	return &client{c, t}
}

// next reads a text frame.
func (c *client) next() string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 15*time.Second)
	defer cancel()
	kind, data, err := c.Read(ctx)
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	if kind != websocket.MessageText {
		c.t.Fatalf("read a %v frame", kind)
	}
	return string(data)
}

func (c *client) send(kind websocket.MessageType, frame string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	if err := c.Write(ctx, kind, []byte(frame)); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// closed reads to the end of the connection, and returns the close frame and the
// text frame before it.
func (c *client) closed() (code websocket.StatusCode, reason, last string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 15*time.Second)
	defer cancel()
	for {
		_, data, err := c.Read(ctx)
		if err == nil {
			last = string(data)
			continue
		}
		var e websocket.CloseError
		if !errors.As(err, &e) {
			c.t.Fatalf("no close frame: %v", err)
		}
		return e.Code, e.Reason, last
	}
}

// frame is what restante.v1 sends, of every kind.
type frame struct {
	Kind             string          `json:"kind"`
	Epoch            string          `json:"epoch"`
	Head             int64           `json:"head"`
	Acked            int64           `json:"acked"`
	Session          string          `json:"session"`
	PingEvery        float64         `json:"pingEverySeconds"`
	Seq              int64           `json:"seq"`
	Time             string          `json:"time"`
	Type             *string         `json:"type"`
	Message          json.RawMessage `json:"message"`
	Expires          string          `json:"expires"`
	Traceparent      *string         `json:"traceparent"`
	From             int64           `json:"from"`
	To               int64           `json:"to"`
	Reason           string          `json:"reason"`
	Code             int             `json:"code"`
	ReconnectAfterMs *int64          `json:"reconnectAfterMs"`
}

func parse(t *testing.T, text string) frame {
	t.Helper()
	var f frame
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		t.Fatalf("%.200q: %v", text, err)
	}
	return f
}

// raw is a client that does only what it is told to: no pong, no close.
type raw struct {
	net.Conn
	in     *bufio.Reader
	chosen string // subprotocol
	t      *testing.T
}

// Opcodes of RFC 6455.
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// dialRaw connects and sends early right behind the handshake, before the answer.
func (s *server) dialRaw(t *testing.T, user, headers string, early []byte) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.(*net.TCPConn).SetReadBuffer(8 << 10); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	request := "GET /?user=" + url.QueryEscape(user) + " HTTP/1.1\r\nHost: " + s.address + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" + headers + "\r\n"
	if _, err := conn.Write(append([]byte(request), early...)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("handshake: %s", response.Status)
	}
	return &raw{conn, in, response.Header.Get("Sec-WebSocket-Protocol"), t}
}

// masked is a client's frame.
func masked(opcode byte, payload []byte) []byte {
	mask := [4]byte{1, 2, 3, 4}
	b := []byte{0x80 | opcode}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	default:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i%4])
	}
	return b
}

// frame reads one frame, whatever it is.
func (r *raw) frame() (opcode byte, payload []byte) {
	r.t.Helper()
	opcode, payload, err := readFrame(r.in)
	if err != nil {
		r.t.Fatalf("read frame: %v", err)
	}
	return opcode, payload
}

// readFrame reads a server's frame as RFC 6455 section 5.2 has it.
func readFrame(in io.Reader) (opcode byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	if head[0]&0xf0 != 0x80 || head[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("frame begins with %x: fragmented, reserved bits, or masked", head)
	}
	length := uint64(head[1])
	switch length {
	case 126:
		var n uint16
		err = binary.Read(in, binary.BigEndian, &n)
		length = uint64(n)
		if err == nil && n <= 125 {
			return 0, nil, errors.New("length is not in its shortest form")
		}
	case 127:
		err = binary.Read(in, binary.BigEndian, &length)
		if err == nil && length <= 0xffff {
			return 0, nil, errors.New("length is not in its shortest form")
		}
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(in, payload)
	return head[0] & 0xf, payload, err
}

func (r *raw) write(frames ...[]byte) {
	r.t.Helper()
	for _, f := range frames {
		if _, err := r.Write(f); err != nil {
			r.t.Fatalf("write frame: %v", err)
		}
	}
}
