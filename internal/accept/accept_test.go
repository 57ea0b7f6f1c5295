package accept

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// serve starts a server with a limit. /hold answers when the test ends, /hijack takes
// the connection over.
func serve(t *testing.T, most, spare int) (*Limit, string) {
	t.Helper()
	limit := New(most, spare)
	held := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case Full(r.Context()):
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/hold":
			<-held
		case r.URL.Path == "/hijack":
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}))
	server.Listener = limit.Listener(server.Listener)
	server.Config.ConnState, server.Config.ConnContext = limit.ConnState, limit.ConnContext
	server.Start()
	t.Cleanup(func() { close(held); server.CloseClientConnections(); server.Close() })
	return limit, server.Listener.Addr().String()
}

type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

// dial connects from an address of the loopback network.
func dial(t *testing.T, from, to string) *client {
	t.Helper()
	c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) send(path string) {
	c.t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: gateway\r\n\r\n"); err != nil {
		c.t.Fatal(err)
	}
}

// get returns the status of a request, 0 when the connection is closed instead.
func (c *client) get(path string) int {
	c.t.Helper()
	if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: gateway\r\n\r\n"); err != nil {
		return 0
	}
	answer, err := http.ReadResponse(c.r, nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatal("no answer")
	}
	if err != nil {
		return 0
	}
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode
}

// closed waits until the server closes the connection.
func (c *client) closed() bool {
	_, err := c.r.ReadByte()
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

func (l *Limit) held() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// busy waits until n connections do not wait for a request.
func (l *Limit) busy(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d connections are busy", n), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		busy := 0
		for c := range l.open {
			if c.waiting.Load() == 0 {
				busy++
			}
		}
		return busy == n
	})
}

// An address that connects and says nothing pushes out its own connections.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	t.Parallel()
	limit, address := serve(t, 8, 2)
	quiet := dial(t, "127.0.0.2", address) // the oldest of all, but the only one of its address
	eventually(t, "it is accepted", func() bool { return limit.held() == 1 })
	kept := dial(t, "127.0.0.3", address)
	if got := kept.get("/"); got != 200 {
		t.Fatal(got)
	}
	var silent []*client
	for range 50 {
		silent = append(silent, dial(t, "127.0.0.1", address))
	}
	for _, c := range silent[:40] {
		if !c.closed() {
			t.Fatal("an old silent connection was not closed")
		}
	}
	for name, c := range map[string]*client{"quiet": quiet, "kept alive": kept, "new": dial(t, "127.0.0.4", address)} {
		if got := c.get("/"); got != 200 {
			t.Errorf("%s: status %d", name, got)
		}
	}
	if n := limit.held(); n > 8 {
		t.Errorf("%d connections", n)
	}
}

// What is being answered, and what is no longer HTTP, is not closed for others: they
// are told, or turned away.
func TestBusyConnectionsStay(t *testing.T) {
	t.Parallel()
	limit, address := serve(t, 4, 2)
	socket := dial(t, "127.0.0.1", address)
	if got := socket.get("/hijack"); got != http.StatusSwitchingProtocols {
		t.Fatal(got)
	}
	for range 3 {
		dial(t, "127.0.0.1", address).send("/hold")
	}
	limit.busy(t, 4)
	told := dial(t, "127.0.0.1", address)
	if got := told.get("/"); got != http.StatusServiceUnavailable {
		t.Errorf("status %d", got)
	}
	if !told.closed() {
		t.Error("the connection that was one too many stays")
	}
	if _, err := io.WriteString(socket, "x"); err != nil {
		t.Error(err)
	}
	if b, err := socket.r.ReadByte(); err != nil || b != 'x' {
		t.Errorf("the WebSocket: %q, %v", b, err)
	}

	// All of the spare ones are taken by requests, too.
	eventually(t, "the last one is gone", func() bool { return limit.held() == 4 })
	limit.mu.Lock()
	for range 2 {
		limit.open[&conn{limit: limit}] = struct{}{}
	}
	limit.mu.Unlock()
	if c := dial(t, "127.0.0.1", address); !c.closed() {
		t.Error("a connection beyond the spare ones is open")
	}
	want := `# HELP restante_connections Connections of clients and publishers that this replica holds, WebSockets among them.
# TYPE restante_connections gauge
restante_connections 6
# HELP restante_connections_limit Connections that this replica may hold: -max-connections, or what its limit of open files leaves.
# TYPE restante_connections_limit gauge
restante_connections_limit 4
# HELP restante_connections_refused_total Connections that ended because the replica held as many as it may: silent (closed for another before a request came), full (answered 503), dropped (not answered).
# TYPE restante_connections_refused_total counter
restante_connections_refused_total{reason="dropped"} 1
restante_connections_refused_total{reason="full"} 1
restante_connections_refused_total{reason="silent"} 0
`
	if err := testutil.CollectAndCompare(limit, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// A connection that ends makes room, however it ends.
func TestEndsAreCounted(t *testing.T) {
	t.Parallel()
	limit, address := serve(t, 4, 2)
	for _, path := range []string{"", "/", "/hijack"} {
		c := dial(t, "127.0.0.1", address)
		if path != "" && c.get(path) == 0 {
			t.Errorf("%s is not answered", path)
		}
		eventually(t, "the connection counts", func() bool { return limit.held() == 1 })
		c.Close()
		eventually(t, "the connection is gone", func() bool { return limit.held() == 0 })
	}
}

func TestAddressOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ a, b string }{
		{"192.0.2.1:1", "192.0.2.1:2"},
		{"[::ffff:192.0.2.1]:1", "192.0.2.1:2"},
		{"[2001:db8:1:2:3::1]:1", "[2001:db8:1:2:ffff::2]:1"},
		{"[fe80::1%eth0]:1", "[fe80::2%eth1]:1"},
	} {
		if a, b := addressOf(address(c.a)), addressOf(address(c.b)); a != b || !a.IsValid() {
			t.Errorf("%s is %s, %s is %s", c.a, a, c.b, b)
		}
	}
	for _, c := range []struct{ a, b string }{
		{"192.0.2.1:1", "192.0.2.2:1"},
		{"[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1"},
	} {
		if a, b := addressOf(address(c.a)), addressOf(address(c.b)); a == b {
			t.Errorf("%s and %s are both %s", c.a, c.b, a)
		}
	}
}

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// BenchmarkMakeRoom is what a flood of silent connections costs when nobody has more
// than the others.
func BenchmarkMakeRoom(b *testing.B) {
	limit := New(10_000, 256)
	i := 0
	for b.Loop() {
		i++
		limit.admit(fakeConn{from: address(fmt.Sprintf("[2001:db8:%x:%x::1]:1", i>>16&0xffff, i&0xffff))})
	}
}

type fakeConn struct {
	net.Conn
	from net.Addr
}

func (c fakeConn) RemoteAddr() net.Addr { return c.from }
func (fakeConn) Close() error           { return nil }

// What wraps a connection must not hide what others need of it: without CloseWrite
// net/http resets a connection instead of answering 431, and without NetConn the send
// buffer of a slow WebSocket cannot be bounded.
func TestConnectionKeepsItsAbilities(t *testing.T) {
	t.Parallel()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := New(10, 1).Listener(inner).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if wrapped, ok := c.(interface{ NetConn() net.Conn }); !ok {
		t.Error("no NetConn")
	} else if _, ok := wrapped.NetConn().(*net.TCPConn); !ok {
		t.Errorf("NetConn is a %T", wrapped.NetConn())
	}
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		t.Fatal("no CloseWrite")
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after CloseWrite the client reads %d bytes, %v", n, err)
	}
}
