package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"restante/internal/checker"
)

// frame is any frame of restante.v1 that a server sends.
type frame struct {
	Kind             string
	Epoch            string
	Head, Acked      int64
	Seq              int64
	Message          json.RawMessage
	From, To         int64
	Code             int
	Reason           string
	ReconnectAfterMs int64

	at time.Time // when it was read
}

// client is a connection that confirms what it receives and tells the checker.
type client struct {
	w     *world
	user  string
	conn  *websocket.Conn
	judge *checker.Conn
	done  chan struct{} // closed when nothing will be read any more

	mu       sync.Mutex
	received []frame // messages
	bye      *frame
	err      error // how it ended
}

// dial opens a connection to a replica.
func (w *world) dial(ctx context.Context, s *server, user string) (*client, error) {
	token, err := s.token(w.idToken(user))
	if err != nil {
		return nil, err
	}
	w.knows(user)
	judge := w.check.Connect(user, checker.FromAcked)
	conn, err := websocketTo(ctx, s, "/v1/connect", token, "restante.v1")
	if err != nil {
		judge.Closed()
		return nil, err
	}
	c := &client{w: w, user: user, conn: conn, judge: judge, done: make(chan struct{})}
	go c.read()
	return c, nil
}

func websocketTo(ctx context.Context, s *server, path, token string, subprotocols ...string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	first := "?"
	if strings.Contains(path, "?") {
		first = "&"
	}
	address := "ws" + strings.TrimPrefix(s.url, "http") + path + first + "token=" + url.QueryEscape(token)
	conn, response, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: s.w.web, Subprotocols: subprotocols})
	if err != nil {
		if response != nil {
			err = fmt.Errorf("answer %d: %w", response.StatusCode, err)
		}
		return nil, err
	}
	conn.SetReadLimit(1 << 20)
	return conn, nil
}

// connect is dial for a test that cannot go on without it. The connection is
// closed with the test.
func (w *world) connect(s *server, user string) *client {
	w.t.Helper()
	c, err := w.dial(w.t.Context(), s, user)
	if err != nil {
		w.t.Fatalf("connect %s: %v", user, err)
	}
	w.t.Cleanup(c.drop)
	return c
}

// read owns the connection's reading side until it ends.
func (c *client) read() {
	defer close(c.done)
	defer c.judge.Closed()
	for {
		_, text, err := c.conn.Read(context.Background())
		if err == nil {
			err = c.handle(text)
		}
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
	}
}

func (c *client) handle(text []byte) error {
	f := frame{at: time.Now()}
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("frame %.100q: %w", text, err)
	}
	switch f.Kind {
	case "hello":
		c.judge.Hello(f.Head, f.Acked)
	case "message":
		message, _, _ := c.w.check.Parse(f.Message)
		c.judge.Received(f.Seq, message)
		c.mu.Lock()
		c.received = append(c.received, f)
		c.mu.Unlock()
		return c.confirm(f.Seq)
	case "gap":
		c.judge.Gap(f.From, f.To)
		return c.confirm(f.To)
	case "bye":
		c.mu.Lock()
		c.bye = &f
		c.mu.Unlock()
	case "ping":
	default:
		return fmt.Errorf("unknown frame %.100q", text)
	}
	return nil
}

func (c *client) confirm(seq int64) error {
	c.judge.Confirmed(seq)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"kind":"ack","seq":%d}`, seq))
}

// drop ends the connection without a word and waits until it is read no more.
func (c *client) drop() {
	_ = c.conn.CloseNow() // it may be closed already
	<-c.done
}

func (c *client) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// messages returns what arrived so far.
func (c *client) messages() []frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]frame(nil), c.received...)
}

// ended returns the end of the connection: the last frame and the close code.
func (c *client) ended(t testing.TB) (bye *frame, code websocket.StatusCode) {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatalf("the connection of %s has not ended", c.user)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bye, websocket.CloseStatus(c.err)
}
