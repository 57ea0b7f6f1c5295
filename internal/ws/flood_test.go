package ws_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/coder/websocket"

	"restante/internal/coretest"
	"restante/internal/hub"
	"restante/internal/ws"
)

// A client that floods is sent away, whatever it sends.
func TestFloods(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{})
	for name, c := range map[string]struct {
		protocols []string
		send      func(*websocket.Conn) error
	}{
		"repeated acks": {[]string{ws.Protocol}, func(c *websocket.Conn) error {
			return c.Write(t.Context(), websocket.MessageText, []byte(`{"kind":"ack","seq":0}`))
		}},
		"pings": {[]string{ws.Protocol}, func(c *websocket.Conn) error { return c.Ping(t.Context()) }},
		"talk": {nil, func(c *websocket.Conn) error {
			return c.Write(t.Context(), websocket.MessageText, []byte(`hello`))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, _, err := websocket.Dial(t.Context(), fmt.Sprintf("%s?user=%s", s.url, "ann"), &websocket.DialOptions{Subprotocols: c.protocols})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.CloseNow()
			closed := make(chan error, 1)
			go func() {
				for {
					_, r, err := conn.Reader(t.Context())
					if err == nil {
						_, err = io.Copy(io.Discard, r)
					}
					if err != nil {
						closed <- err
						return
					}
				}
			}()
			for range 100_000 {
				if c.send(conn) != nil {
					break
				}
			}
			if err := <-closed; websocket.CloseStatus(err) != hub.CodeSlowDown {
				t.Errorf("the connection ended with %v", err)
			}
		})
	}
}
