package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// gateway plays the gateway: serve is called for each WebSocket with its number
// from 1. The tokens are used up as the gateway's are.
func gateway(t *testing.T, serve func(n int, c *websocket.Conn)) *bench {
	t.Helper()
	var issued, connected atomic.Int64
	b := newBench(t, nil)
	idToken := b.env["ID_TOKEN"]
	tokens := func(credential string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != credential {
				answer(w, 401, `{"detail":"The ID token was rejected."}`)
				return
			}
			answer(w, 200, fmt.Sprintf(`{"token":"token-%d"}`, issued.Add(1)))
		}
	}
	sockets := func(protocols ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			n := int(connected.Add(1))
			if r.URL.Query().Get("token") != fmt.Sprintf("token-%d", issued.Load()) {
				answer(w, 401, `{}`)
				return
			}
			if epoch := r.URL.Query().Get("epoch"); (epoch == "e") != (n > 1 && len(protocols) > 0) {
				t.Errorf("connection %d brings the epoch %q", n, epoch)
			}
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: protocols})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.CloseNow()
			serve(n, c)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/tokens", tokens("Bearer "+idToken))
	mux.HandleFunc("GET /tokens", tokens(idToken))
	mux.HandleFunc("GET /v1/connect", sockets("restante.v1"))
	mux.HandleFunc("GET /ws", sockets())
	b.server.Config.Handler = mux
	return b
}

func write(t *testing.T, c *websocket.Conn, frames ...string) {
	t.Helper()
	for _, f := range frames {
		if err := c.Write(t.Context(), websocket.MessageText, []byte(f)); err != nil {
			t.Errorf("write %s: %v", f, err)
		}
	}
}

// read returns the client's next frame, or why there is none.
func read(t *testing.T, c *websocket.Conn) string {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, data, err := c.Read(ctx)
	if err != nil {
		return fmt.Sprintf("closed with %d", websocket.CloseStatus(err))
	}
	return string(data)
}

func expect(t *testing.T, c *websocket.Conn, want string) {
	t.Helper()
	if got := read(t, c); got != want {
		t.Errorf("the client sent %s, want %s", got, want)
	}
}

func hello(epoch string, head, acked int) string {
	return fmt.Sprintf(`{"kind":"hello","epoch":%q,"head":%d,"acked":%d,"session":"s"}`, epoch, head, acked)
}

func message(seq int, value string) string {
	return fmt.Sprintf(`{"kind":"message","seq":%d,"time":"2030-01-02T03:04:05.000Z","message":%s}`, seq, value)
}

func ack(seq int) string { return fmt.Sprintf(`{"kind":"ack","seq":%d}`, seq) }

func TestConnectPrintsThenConfirms(t *testing.T) {
	t.Parallel()
	var b *bench
	b = gateway(t, func(_ int, c *websocket.Conn) {
		write(t, c, hello("e", 5, 2), message(3, `"Serverless is cool!"`))
		expect(t, c, ack(3))
		if got := b.stdout.String(); got != "Serverless is cool!\n" {
			t.Errorf("confirmed before it was printed: %q", got)
		}
		write(t, c, `{"kind":"gap","from":4,"to":5,"reason":"expired"}`, `{"kind":"unheard-of"}`)
		expect(t, c, ack(5))
		write(t, c, message(6, `{"order": 17}`), message(7, `"two\nlines \u001b[31m"`))
		expect(t, c, ack(6))
		expect(t, c, ack(7))
		expect(t, c, "closed with 1000")
	})
	b.want(0, "Serverless is cool!\n{\"order\":17}\n\"two\\nlines \\x1b[31m\"\n", "Connected as ada, 3 waiting.\nMessages 4 to 5 will not arrive: expired.\n",
		"connect-websocket", "-n", "3")
}

func TestConnectPrintsFrames(t *testing.T) {
	t.Parallel()
	frames := []string{hello("e", 1, 0), message(1, `"x"`)}
	b := gateway(t, func(_ int, c *websocket.Conn) {
		write(t, c, frames...)
		expect(t, c, ack(1))
		expect(t, c, "closed with 1000")
	})
	b.want(0, strings.Join(frames, "\n")+"\n", "", "connect-websocket", "-json", "-n", "1")
}

// A connection that ends is replaced by another one, with a fresh token; what
// is repeated is confirmed, and not printed.
func TestConnectReconnects(t *testing.T) {
	t.Parallel()
	b := gateway(t, func(n int, c *websocket.Conn) {
		switch n {
		case 1:
			write(t, c, hello("e", 2, 0), message(1, `"one"`), message(2, `"two"`))
			expect(t, c, ack(1))
			c.CloseNow() // no goodbye at all
		case 2:
			write(t, c, hello("e", 2, 1), message(2, `"two"`), `{"kind":"bye","code":1012,"reason":"drain","reconnectAfterMs":1}`)
			expect(t, c, ack(2))
			_ = c.Close(websocket.StatusServiceRestart, "drain")
		case 3:
			write(t, c, hello("another", 4, 3), `{"kind":"gap","from":1,"to":3,"reason":"epoch"}`, message(4, `"after a restore"`))
			expect(t, c, ack(4))
			expect(t, c, "closed with 1000")
		}
	})
	b.want(0, "", "The gateway is restarting, or the connection was old. Reconnecting in", "connect-websocket", "-n", "3")
	if got := b.stdout.String(); got != "one\ntwo\nafter a restore\n" {
		t.Errorf("printed %q", got)
	}
	for _, want := range []string{"numbers begin again", "Messages 1 to 3 were confirmed in that log"} {
		if !strings.Contains(b.stderr.String(), want) {
			t.Errorf("the new log is not announced, %q:\n%s", want, b.stderr.String())
		}
	}
}

func TestConnectPlainGoesTheSeedsWay(t *testing.T) {
	t.Parallel()
	b := gateway(t, func(_ int, c *websocket.Conn) {
		if c.Subprotocol() != "" {
			t.Errorf("subprotocol %q", c.Subprotocol())
		}
		write(t, c, "Serverless is cool!", `{"order":17}`)
		reading := make(chan string, 1)
		go func() { reading <- read(t, c) }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := c.Ping(ctx); err != nil {
			t.Errorf("the messages were not confirmed: %v", err)
		}
		if got := <-reading; got != "closed with 1000" {
			t.Errorf("the client sent %s", got)
		}
	})
	b.want(0, "Serverless is cool!\n{\"order\":17}\n", "Connected as ada", "connect-websocket", "-plain", "-n", "2")
}

func TestConnectStopsInOrder(t *testing.T) {
	t.Parallel()
	code := make(chan string, 1)
	b := gateway(t, func(_ int, c *websocket.Conn) {
		write(t, c, hello("e", 0, 0))
		code <- read(t, c)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() { done <- b.runContext(ctx, "connect-websocket") }()
	// Before the client has said so, it may still be dialling.
	for deadline := time.After(10 * time.Second); !strings.Contains(b.stderr.String(), "Connected"); {
		select {
		case <-deadline:
			t.Fatalf("not connected: %s", b.stderr.String())
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if got := <-code; got != "closed with 1000" {
		t.Errorf("the client sent %s", got)
	}
	if got := <-done; got != 0 {
		t.Errorf("exit code %d:\n%s", got, b.stderr.String())
	}
}

func TestConnectGivesUpWhenThatIsRight(t *testing.T) {
	t.Parallel()
	closes := func(code websocket.StatusCode) *bench {
		return gateway(t, func(_ int, c *websocket.Conn) {
			write(t, c, hello("e", 0, 0))
			_ = c.Close(code, "")
		})
	}
	closes(4410).want(1, "", "An operator has removed this connection", "connect-websocket")
	closes(1008).want(1, "", "did not understand", "connect-websocket")
	closes(1012).want(0, "", "Connected", "connect-websocket", "-once")
	closes(4409).want(1, "", "too many connections. (close code 4409)", "connect-websocket", "-once")

	b := gateway(t, func(_ int, c *websocket.Conn) { write(t, c, hello("e", 1, 0), message(1, `"x"`)); read(t, c) })
	b.env["ID_TOKEN"] = token("eve", "eve", time.Now().Add(time.Hour))
	b.want(1, "", "The ID token was rejected. (401)\nSign in again", "connect-websocket")
	b.want(2, "", "-plain has no frames", "connect-websocket", "-plain", "-json")
}

// A message that could not be printed is not confirmed: it comes again.
func TestConnectDoesNotConfirmWhatItCouldNotPrint(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	b := gateway(t, func(_ int, c *websocket.Conn) {
		write(t, c, hello("e", 1, 0), message(1, `"x"`))
		got <- read(t, c)
	})
	code := run(t.Context(), []string{"connect-websocket"}, &env{
		getenv: func(name string) string { return b.env[name] }, stdout: fullDisk{}, stderr: &b.stderr,
	})
	if code != 1 || !strings.Contains(b.stderr.String(), "no space") {
		t.Errorf("exit code %d: %s", code, b.stderr.String())
	}
	if sent := <-got; sent != "closed with 1000" {
		t.Errorf("the client sent %s", sent)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, fmt.Errorf("no space left on device") }

// A network that swallows everything, and a gateway that says how often it would
// send something.
func TestConnectGivesUpASilentConnection(t *testing.T) {
	t.Parallel()
	again := make(chan struct{})
	b := gateway(t, func(n int, c *websocket.Conn) {
		if n == 1 {
			write(t, c, `{"kind":"hello","epoch":"e","head":0,"acked":0,"session":"s","pingEverySeconds":0.4}`)
			<-again // neither reads nor writes
			return
		}
		close(again)
		write(t, c, hello("e", 1, 0), message(1, `"after all"`))
		expect(t, c, ack(1))
		read(t, c)
	})
	if code := b.run("connect-websocket", "-n", "1"); code != 0 || b.stdout.String() != "after all\n" {
		t.Errorf("exit code %d, printed %q", code, b.stdout.String())
	}
}

// A slow network is not a silent one: something arrives all the time, though no
// frame and no pong is complete.
func TestConnectKeepsASlowConnection(t *testing.T) {
	t.Parallel()
	b := gateway(t, func(n int, c *websocket.Conn) {
		if n > 1 {
			t.Errorf("connection %d", n)
		}
		write(t, c, `{"kind":"hello","epoch":"e","head":0,"acked":0,"session":"s","pingEverySeconds":0.4}`)
		write(t, c, message(1, `"piece by piece"`))
		expect(t, c, ack(1))
		read(t, c)
	})
	handler := b.server.Config.Handler
	b.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(dripping{w}, r) })
	if code := b.run("connect-websocket", "-n", "1"); code != 0 || b.stdout.String() != "piece by piece\n" {
		t.Errorf("exit code %d, printed %q", code, b.stdout.String())
	}
}

// dripping makes connections that carry ten bytes in 100 ms.
type dripping struct{ http.ResponseWriter }

func (d dripping) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(d.ResponseWriter).Hijack()
	slow := drip{conn}
	return slow, bufio.NewReadWriter(rw.Reader, bufio.NewWriter(slow)), err
}

type drip struct{ net.Conn }

func (d drip) Write(p []byte) (n int, err error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for drop := range slices.Chunk(p, 10) {
		<-tick.C
		m, err := d.Conn.Write(drop)
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
