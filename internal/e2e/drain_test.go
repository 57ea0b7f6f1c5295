package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"restante/internal/testdb"
)

// TestDrainUnderLoad replaces a replica while publishers post to it and clients
// are connected to it, as a deploy does: /readyz says so first, what was begun is
// answered, clients are told when to come back, the process ends well, and
// nothing is lost.
func TestDrainUnderLoad(t *testing.T) {
	parallel(t)
	const publishers, users = 6, 4
	const delay, spread = 3 * time.Second, 300 * time.Millisecond
	w := newWorld(t, testdb.New(t).URL)
	a := w.server("-drain-delay", delay.String(), "-drain-spread", spread.String())
	b := w.server()

	followers := make([]*follower, users)
	for i := range followers {
		followers[i] = w.follow(fmt.Sprint("user-", i), a, b)
	}
	// Publishers stay with the old replica until the load balancer would send
	// them to the new one.
	ctx, stopPosting := context.WithCancel(t.Context())
	defer stopPosting()
	var moved atomic.Bool
	var posted, answeredByB atomic.Int64
	var group sync.WaitGroup
	for i := range publishers {
		group.Go(func() {
			p := &publisher{w: w, number: uint32(i + 1)}
			for ctx.Err() == nil {
				s := a
				if moved.Load() {
					s = b
				}
				answer, ok, err := p.post(t.Context(), s, fmt.Sprint("user-", p.n%users))
				if !ok {
					t.Errorf("publisher %d, to the old replica: %v: %d %s %v", i, s == a, answer.status, answer.body, err)
					return
				}
				if posted.Add(1); s == b {
					answeredByB.Add(1)
				}
			}
		})
	}
	eventually(t, "there is load", func() bool { return posted.Load() > 100 })

	slow := beginPost(t, w, a, "user-0")
	signalled := time.Now()
	a.signal(syscall.SIGTERM)
	eventually(t, "/readyz says that the replica stops", func() bool { return a.readyz() == http.StatusServiceUnavailable })
	if after := time.Since(signalled); after >= delay {
		t.Errorf("/readyz said so only after %v, with the drain delay over", after)
	}
	moved.Store(true)

	// The request that was begun before the signal ends after the listener closed.
	eventually(t, "the replica takes no more connections", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(a.url, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	slow.finish(t)

	for i, f := range followers {
		bye, code := f.first.ended(t)
		if bye == nil || bye.Code != 1012 || bye.ReconnectAfterMs < 0 || bye.ReconnectAfterMs > spread.Milliseconds() {
			t.Fatalf("user %d: bye was %+v", i, bye)
		}
		if after := bye.at.Sub(signalled); after < delay {
			t.Errorf("user %d was sent away %v after the signal, the drain delay is %v", i, after, delay)
		}
		if code != websocket.StatusServiceRestart {
			t.Errorf("user %d: closed with %d", i, code)
		}
	}
	a.ends(0)
	after := answeredByB.Load()
	eventually(t, "the new replica has the load", func() bool { return answeredByB.Load() > after+100 })
	stopPosting()
	group.Wait()
	for i, f := range followers {
		eventually(t, "everybody is connected again", func() bool { return f.current() != f.first && f.current().alive() })
		if f.connections.Load() != 2 {
			t.Errorf("user %d needed %d connections", i, f.connections.Load())
		}
	}
	report := w.verdict()
	t.Logf("%d messages were posted", posted.Load())
	if report.Accepted < posted.Load() {
		t.Errorf("%d posted, %d accepted", posted.Load(), report.Accepted)
	}
}

// follower is a user who reconnects when told to, to the next replica.
type follower struct {
	first       *client
	connections atomic.Int64
	now         atomic.Pointer[client]
}

func (f *follower) current() *client { return f.now.Load() }

// follow connects a user, and connects again when the connection ends, until the
// test does.
func (w *world) follow(user string, replicas ...*server) *follower {
	w.t.Helper()
	f := &follower{first: w.connect(replicas[0], user)}
	f.now.Store(f.first)
	f.connections.Add(1)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for next := 1; ; next++ {
			c := f.current()
			select {
			case <-c.done:
			case <-ctx.Done():
				return
			}
			pause := 100 * time.Millisecond
			if bye, _ := c.ended(w.t); bye != nil {
				pause = time.Duration(bye.ReconnectAfterMs) * time.Millisecond
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
			again, err := w.dial(ctx, replicas[next%len(replicas)], user)
			if err != nil {
				continue
			}
			f.connections.Add(1)
			f.now.Store(again)
		}
	}()
	w.t.Cleanup(func() {
		stop()
		<-done
		f.current().drop()
	})
	return f
}

// halfPost is a POST of which the second half is still to be sent.
type halfPost struct {
	conn net.Conn
	rest string
	told func(status int, body []byte)
}

func beginPost(t *testing.T, w *world, s *server, user string) *halfPost {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	message, payload := w.check.Payload(99, 1, 0, 100)
	body := fmt.Sprintf(`{"userId":%q,"message":%s}`, user, payload)
	head := fmt.Sprintf("POST /v1/messages HTTP/1.1\r\nHost: restante\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", w.key, len(body))
	w.check.Posted(user, message)
	if _, err := io.WriteString(conn, head+body[:len(body)/2]); err != nil {
		t.Fatal(err)
	}
	return &halfPost{conn: conn, rest: body[len(body)/2:], told: func(status int, text []byte) {
		if status != http.StatusAccepted {
			t.Fatalf("the request that was under way was answered %d %s", status, text)
		}
		w.check.Accepted(user, message, seqOf(t, text))
	}}
}

// finish sends the rest; it must be answered 202.
func (h *halfPost) finish(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(h.conn, h.rest); err != nil {
		t.Fatalf("the request that was under way: %v", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(h.conn), nil)
	if err != nil {
		t.Fatalf("the request that was under way: %v", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	h.told(response.StatusCode, text)
}
