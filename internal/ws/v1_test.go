package ws_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"restante/internal/coretest"
	"restante/internal/events"
	"restante/internal/origins"
	"restante/internal/ws"
)

func shortWrites(cfg *ws.Config) { cfg.WriteTimeout = 500 * time.Millisecond }

// A client that brings another epoch is told so before anything else, even if nothing
// was ever confirmed; one that brings this one, or none, is not.
func TestOtherEpochIsAGap(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute})
	s.post(t, "al", `1`, `2`)
	for _, acked := range []int64{0, 1} {
		if acked > 0 {
			s.Log.Ack("al", acked)
			s.acked(t, "al", acked)
		}
		for epoch, gap := range map[string]bool{"": false, s.Hub.Epoch(): false, "other": true} {
			c := s.dialWith(t, "al", "&epoch="+epoch, "restante.v1")
			if hello := parse(t, c.next()); hello.Kind != "hello" || hello.Epoch != s.Hub.Epoch() || hello.Acked != acked {
				t.Errorf("hello %+v", hello)
			}
			first := parse(t, c.next())
			if gap && (first.Kind != "gap" || first.From != 1 || first.To != acked || first.Reason != "epoch") {
				t.Errorf("epoch %q, acked %d: %+v", epoch, acked, first)
			}
			if gap {
				first = parse(t, c.next())
			}
			if first.Kind != "message" || first.Seq != acked+1 {
				t.Errorf("epoch %q, acked %d: %+v", epoch, acked, first)
			}
		}
	}
}

func TestV1Frames(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute})
	s.post(t, "al", `1`, `2`, `3`, `4`, `5`, `6`)
	s.Log.Ack("al", 1)
	s.acked(t, "al", 1)
	if _, err := s.Relaxed.Exec(t.Context(), `UPDATE events SET expires_at = now() WHERE seq IN (2, 3, 5)`); err != nil {
		t.Fatal(err)
	}
	c := s.dial(t, "al", "restante.v1")
	if c.Subprotocol() != "restante.v1" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	stream, err := s.Log.Stream(t.Context(), "al")
	if err != nil || len(stream.Sessions) != 1 {
		t.Fatalf("%+v, %v", stream, err)
	}
	hello := parse(t, c.next())
	if hello.Kind != "hello" || hello.Head != 6 || hello.Acked != 1 || hello.Epoch != s.Hub.Epoch() || hello.Epoch == "" || hello.Session != stream.Sessions[0].SessionID || hello.PingEvery != 30 {
		t.Errorf("hello %+v", hello)
	}
	for _, want := range []struct{ seq, from, to int64 }{{0, 2, 3}, {4, 0, 0}, {0, 5, 5}, {6, 0, 0}} {
		f := parse(t, c.next())
		if want.seq == 0 && (f.Kind != "gap" || f.From != want.from || f.To != want.to || f.Reason != "expired") {
			t.Errorf("%+v, want the gap from %d to %d", f, want.from, want.to)
		}
		if want.seq > 0 && (f.Kind != "message" || f.Seq != want.seq || string(f.Message) != fmt.Sprint(want.seq) || f.Type != nil || f.Traceparent != nil) {
			t.Errorf("%+v, want message %d", f, want.seq)
		}
	}
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	receipts, err := s.Log.Append(t.Context(), []events.Message{{
		UserID: "al", Payload: json.RawMessage(`{"a" : "b"}`), Type: `a "type"`, Traceparent: trace, Publisher: "test", TTL: time.Minute,
	}})
	if err != nil {
		t.Fatal(err)
	}
	text := c.next()
	f := parse(t, text)
	if f.Kind != "message" || f.Seq != 7 || f.Type == nil || *f.Type != `a "type"` || f.Traceparent == nil || *f.Traceparent != trace {
		t.Errorf("%+v", f)
	}
	if !strings.Contains(text, `"message":{"a" : "b"}`) {
		t.Errorf("the message's bytes have changed: %s", text)
	}
	for name, times := range map[string]struct {
		got  string
		want time.Time
	}{"time": {f.Time, receipts[0].AcceptedAt}, "expires": {f.Expires, receipts[0].ExpiresAt}} {
		if want := times.want.UTC().Format("2006-01-02T15:04:05.000Z"); times.got != want {
			t.Errorf("%s is %q, want %q", name, times.got, want)
		}
	}
	// Pongs confirm nothing here, and are answered all the same; acked has gone over
	// what has expired, up to 4.
	s.acked(t, "al", 3)
	c.send(websocket.MessageText, `{"kind":"ack","seq":5}`)
	s.acked(t, "al", 5)
	c.send(websocket.MessageText, ` { "seq" : 7 , "kind" : "ack" } `)
	c.send(websocket.MessageText, `{"kind":"ack","seq":2}`)
	s.acked(t, "al", 7)
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Errorf("close: %v", err)
	}
	s.gone(t, "al")
}

// Whoever breaks the protocol is told how, in bye and in the close frame.
func TestV1Violations(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute})
	for name, bad := range map[string]struct {
		kind  websocket.MessageType
		frame string
		code  websocket.StatusCode
	}{
		"not JSON":         {websocket.MessageText, `ack 1`, 1008},
		"empty":            {websocket.MessageText, ``, 1008},
		"null":             {websocket.MessageText, `null`, 1008},
		"another kind":     {websocket.MessageText, `{"kind":"hello"}`, 1008},
		"no seq":           {websocket.MessageText, `{"kind":"ack"}`, 1008},
		"negative":         {websocket.MessageText, `{"kind":"ack","seq":-1}`, 1008},
		"fraction":         {websocket.MessageText, `{"kind":"ack","seq":0.5}`, 1008},
		"string":           {websocket.MessageText, `{"kind":"ack","seq":"0"}`, 1008},
		"huge":             {websocket.MessageText, `{"kind":"ack","seq":99999999999999999999}`, 1008},
		"unknown field":    {websocket.MessageText, `{"kind":"ack","seq":0,"x":1}`, 1008},
		"ping and more":    {websocket.MessageText, `{"kind":"ping","seq":1}`, 1008},
		"two pings":        {websocket.MessageText, `{"kind":"ping"}{"kind":"ping"}`, 1008},
		"two in one frame": {websocket.MessageText, `{"kind":"ack","seq":0}{"kind":"ack","seq":0}`, 1008},
		"rest":             {websocket.MessageText, `{"kind":"ack","seq":0}]`, 1008},
		"beyond":           {websocket.MessageText, `{"kind":"ack","seq":1}`, 1008},
		"binary":           {websocket.MessageBinary, `{"kind":"ack","seq":0}`, 1008},
		"too large":        {websocket.MessageText, `{"kind":"ack","seq":0` + strings.Repeat(" ", 4096) + `}`, 1009},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := s.dial(t, name, "restante.v1")
			c.next() // hello
			c.send(websocket.MessageText, `{"kind":"ack","seq":0}`)
			c.send(bad.kind, bad.frame)
			code, reason, last := c.closed()
			if code != bad.code || reason == "" {
				t.Errorf("closed with %d %q", code, reason)
			}
			if bad.code == 1008 { // a frame that is too large is the library's to refuse
				if bye := parse(t, last); bye.Kind != "bye" || bye.Code != 1008 || bye.Reason != reason || bye.ReconnectAfterMs == nil {
					t.Errorf("last frame %s", last)
				}
			}
			s.gone(t, name)
		})
	}
}

// A page sees neither the WebSocket's pings nor its pongs: it gets frames. It may
// send them at any time, and confirms nothing by them.
func TestPingFrames(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute})
	c := s.dial(t, "al", "restante.v1")
	c.next() // hello
	for _, ping := range []string{`{"kind":"ping"}`, ` { "kind" : "ping" } `} {
		c.send(websocket.MessageText, `{"kind":"pong"}`)
		c.send(websocket.MessageText, ping)
		if got := c.next(); got != `{"kind":"pong"}` {
			t.Errorf("%s was answered with %s", ping, got)
		}
	}
	s.post(t, "al", `1`)
	c.next()
	c.send(websocket.MessageText, `{"kind":"ping"}`)
	c.next()
	if at, err := s.Log.Stream(t.Context(), "al"); err != nil || at.Acked != 0 {
		t.Errorf("acked %d, %v", at.Acked, err)
	}
}

// Silence is no longer than hello says. A client that knows no ping frames answers
// the WebSocket's pings, and stays.
func TestSilentServerSendsPings(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute, Ping: 2 * time.Second})
	t.Run("restante.v1", func(t *testing.T) {
		t.Parallel()
		c := s.dialRaw(t, "al", "Sec-WebSocket-Protocol: restante.v1\r\n", nil)
		if _, hello := c.frame(); parse(t, string(hello)).PingEvery != 2 {
			t.Errorf("%s", hello)
		}
		for range 3 {
			if op, text := c.frame(); op != opText || string(text) != `{"kind":"ping"}` {
				t.Errorf("frame %d %s", op, text)
			}
			if op, payload := c.frame(); op != opPing {
				t.Errorf("frame %d %s", op, payload)
			}
			c.write(masked(opPong, nil))
		}
	})
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		c := s.dialRaw(t, "bea", "", nil)
		for range 3 {
			if op, payload := c.frame(); op != opPing || len(payload) > 0 {
				t.Errorf("frame %d %s", op, payload)
			}
			c.write(masked(opPong, nil))
		}
	})
}

// A browser fails a connection whose server chooses none of the subprotocols that
// it offered, or one that it did not offer.
func TestSubprotocols(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{})
	const header = "Sec-WebSocket-Protocol: "
	for offered, chosen := range map[string]string{
		"":                               "",
		header + "restante.v1\r\n":       "restante.v1",
		header + "chat, restante.v1\r\n": "restante.v1",
		header + "restante.v1,restante.token.x-_.y\r\n":  "restante.v1",
		header + "restante.token.x-_.y, restante.v1\r\n": "restante.v1",
		header + "restante.token.x-_.y\r\n":              "restante.token.x-_.y",
		header + "chat, restante.token.x-_.y\r\n":        "restante.token.x-_.y",
		header + "chat\r\n" + header + "restante.v1\r\n": "restante.v1",
		header + "restante.v2\r\n":                       "",
		header + "RESTANTE.V1\r\n":                       "", // not chosen and then spoken to as plain
		header + "chat\r\n":                              "",
	} {
		c := s.dialRaw(t, "al", offered, masked(opPing, []byte("x")))
		if c.chosen != chosen {
			t.Errorf("offered %q: chosen %q, want %q", offered, c.chosen, chosen)
		}
		op, payload := c.frame()
		if isV1 := op == opText && strings.Contains(string(payload), `"hello"`); isV1 != (chosen == "restante.v1") {
			t.Errorf("offered %q: restante.v1 %t", offered, isV1)
		}
		c.Conn.Close()
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	for _, allowed := range [][]string{nil, {"https://app.example", "http://localhost:8082"}, {"*"}} {
		set, err := origins.Parse(allowed)
		if err != nil {
			t.Fatal(err)
		}
		s := serve(t, coretest.Options{}, func(cfg *ws.Config) { cfg.Origins = set })
		for origin, want := range map[string]bool{
			"":                            true, // no browser
			"https://app.example":         len(allowed) > 0,
			"http://localhost:8082":       len(allowed) > 0,
			"https://app.example.evil":    len(allowed) == 1,
			"http://app.example":          len(allowed) == 1,
			"null":                        len(allowed) == 1,
			"http://" + s.address:         true, // the gateway itself
			"https://" + s.address:        true, // behind a proxy that ends TLS
			"https://evil/app.example":    len(allowed) == 1,
			"https://app.example:8443":    len(allowed) == 1,
			"https://APP.example, https:": len(allowed) == 1,
		} {
			header := http.Header{}
			if origin != "" {
				header.Set("Origin", origin)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			c, response, err := websocket.Dial(ctx, s.url+"?user=al", &websocket.DialOptions{HTTPHeader: header})
			cancel()
			if ok := err == nil; ok != want {
				t.Errorf("allowed %q, origin %q: connected %t", allowed, origin, ok)
			}
			if err == nil {
				_ = c.CloseNow()
			} else if response == nil || response.StatusCode != http.StatusForbidden {
				t.Errorf("origin %q: %v", origin, err)
			}
		}
	}
}

// A replica that is replaced tells each client when to come back.
func TestDrainTellsClientsToComeBack(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{})
	v1, plain := s.dial(t, "al", "restante.v1"), s.dial(t, "al")
	v1.next() // hello
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.handler.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait while connections are open: %v", err)
	}
	s.Hub.Drain(time.Minute)
	code, reason, last := v1.closed()
	bye := parse(t, last)
	if code != 1012 || bye.Kind != "bye" || bye.Code != 1012 || bye.ReconnectAfterMs == nil || *bye.ReconnectAfterMs < 0 || *bye.ReconnectAfterMs >= 60_000 {
		t.Errorf("restante.v1: closed with %d %q, last %s", code, reason, last)
	}
	code, reason, _ = plain.closed()
	var ms int
	if _, err := fmt.Sscanf(reason, "replica is stopping, connect again in %d ms", &ms); err != nil || code != 1012 || ms < 0 || ms >= 60_000 {
		t.Errorf("plain: closed with %d %q", code, reason)
	}
	ctx, cancelWait := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancelWait()
	if err := s.handler.Wait(ctx); err != nil {
		t.Error(err)
	}
	if _, response, err := websocket.Dial(ctx, s.url+"?user=al", nil); err == nil || response == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("connect while draining: %v", err)
	}
}

// A frame that the client sends right behind its handshake is not lost in the
// buffers of net/http.
func TestEarlyFramesAreRead(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute})
	protocol := "Sec-WebSocket-Protocol: restante.v1\r\n"
	var early []byte
	for range 200 { // more than any buffer on the way
		early = append(early, masked(opText, []byte(`{"kind":"ack","seq":0}`))...)
	}
	good := s.dialRaw(t, "good", protocol, early)
	if op, hello := good.frame(); op != opText || !strings.Contains(string(hello), "hello") {
		t.Errorf("frame %d %s", op, hello)
	}
	s.post(t, "good", `1`)
	if op, message := good.frame(); op != opText || !strings.Contains(string(message), `"seq":1`) {
		t.Errorf("frame %d %s", op, message)
	}
	bad := s.dialRaw(t, "bad", protocol, masked(opText, []byte(`nonsense`)))
	for _, want := range []string{"hello", "bye"} {
		if op, payload := bad.frame(); op != opText || !strings.Contains(string(payload), want) {
			t.Errorf("frame %d %s, want %s", op, payload, want)
		}
	}
	if op, _ := bad.frame(); op != opClose {
		t.Errorf("frame %d after bye", op)
	}
}
