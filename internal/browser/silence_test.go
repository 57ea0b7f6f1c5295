package browser

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// A network that swallows everything ends no WebSocket: without a watchdog the page
// would say that it is connected for minutes, while a message waits.
func TestSilentNetworkIsNoticed(t *testing.T) {
	t.Parallel()
	server := newServer(t, common.binary, [4]int{}, "-ping=2s")
	server.createUser("dora", password)
	wire := newWire(t, strings.TrimPrefix(server.gateway, "http://"))
	page := openTab(t, newProfile(t), server.page)
	page.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		// The page's policy allows the gateway's address, not the wire's.
		_, err := cdp.Call(ctx, t, cdppage.SetBypassCSP, cdppage.SetBypassCSPParams{Enabled: true})
		return err
	}))
	page.signIn("dora")
	ask[int](page, fmt.Sprintf(`window.WebSocket = class extends WebSocket {
		constructor(url, protocols) { super(url.replace(/^ws:\/\/[^/]+/, 'ws://%s'), protocols); }
	}; 0`, wire.address))
	page.connect()
	server.publish("dora", "before", 0)
	page.untilShown(1)
	server.until("dora", "confirmed", func(s stream) bool { return s.Pending == 0 })

	wire.swallow()
	server.publish("dora", "after", 0)
	page.untilShown(2)
	page.untilState("connected")
	page.wantRows("1 before", "2 after")
	if wire.opened() < 2 {
		t.Errorf("%d connections: the network was not silent", wire.opened())
	}
	page.quiet("favicon.ico") // asked for in spite of the icon, once the policy is bypassed
}

// wire carries connections to an address, until it swallows what they carry.
// Those that are opened later are carried.
type wire struct {
	address string
	to      string

	mu    sync.Mutex // guards all below
	conns []net.Conn
	muted int // of conns, from the first
	ended bool
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &wire{address: l.Addr().String(), to: to}
	var carriers sync.WaitGroup
	carriers.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			carriers.Go(func() { n.carry(from) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		n.mu.Lock()
		n.ended = true
		for _, c := range n.conns {
			c.Close()
		}
		n.mu.Unlock()
		carriers.Wait()
	})
	return n
}

// carry serves one connection. Its both ends stay open when one is closed, as they
// do when a network is silent.
func (n *wire) carry(from net.Conn) {
	to, err := net.Dial("tcp", n.to)
	if err != nil {
		from.Close()
		return
	}
	n.mu.Lock()
	at := len(n.conns)
	n.conns = append(n.conns, from, to)
	if n.ended {
		from.Close()
		to.Close()
	}
	n.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			_, _ = io.Copy(mutable{way[1], n, at}, way[0]) // until one end is closed
			if !n.isMuted(at) {
				from.Close()
				to.Close()
			}
		})
	}
	both.Wait()
}

func (n *wire) swallow() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.muted = len(n.conns)
}

func (n *wire) isMuted(at int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return at < n.muted
}

// opened returns how many connections there have been.
func (n *wire) opened() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns) / 2
}

// mutable loses what is written to it once its connection is muted.
type mutable struct {
	io.Writer
	n  *wire
	at int
}

func (m mutable) Write(p []byte) (int, error) {
	if m.n.isMuted(m.at) {
		return len(p), nil
	}
	return m.Writer.Write(p)
}
