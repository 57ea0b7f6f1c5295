// Package accept bounds the connections that a server holds, below what the process
// may have open: for all who connect, there are files left for Postgres, for the admin
// listener and for the keyring.
//
// A connection waits while its client has not sent a complete request header: since
// it was accepted, or since its last answer. At the limit, a new connection takes the
// place of one that waits. Those of the address with the most waiting connections go
// first, and of these the oldest, so an address that connects thousands of times and
// says nothing pushes out its own connections and nobody else's. What is being
// answered, and WebSockets, are never closed.
//
// When nothing waits, a few more connections are accepted to be answered 503 (see
// [Full]); beyond these, new ones are closed at once.
package accept

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limit bounds the connections of one listener. Its ConnState and ConnContext belong
// into the http.Server that serves the listener.
type Limit struct {
	most  int
	spare int // connections beyond most, which are answered 503

	mu     sync.Mutex
	open   map[*conn]struct{}
	barren time.Time // until then there is no use in looking for connections that wait

	closed  atomic.Int64 // connections that waited and were closed for others
	full    atomic.Int64 // connections that are or were answered 503
	dropped atomic.Int64 // connections that were closed without an answer
}

// New makes a limit of most connections that are served, and spare more that are
// told that there are too many.
func New(most, spare int) *Limit {
	return &Limit{most: most, spare: spare, open: make(map[*conn]struct{})}
}

// Most is how many connections are served.
func (l *Limit) Most() int { return l.most }

// Listener accepts what the limit allows from a listener.
func (l *Limit) Listener(from net.Listener) net.Listener { return listener{from, l} }

type listener struct {
	net.Listener
	limit *Limit
}

func (l listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.limit.admit(raw); c != nil {
			return c, nil
		}
		_ = raw.Close()
	}
}

// conn is a connection that counts until it is closed.
type conn struct {
	net.Conn
	limit   *Limit
	address netip.Prefix
	full    bool         // it is one of the spare ones
	waiting atomic.Int64 // since when its client owes a request, in Unix nanoseconds; 0 when it does not
}

func (c *conn) Close() error {
	c.limit.forget(c)
	return c.Conn.Close()
}

// CloseWrite lets net/http end a connection whose client is still sending: without it
// the client would see a reset instead of the answer.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}

// NetConn is the connection itself, for whoever sets options of its socket.
func (c *conn) NetConn() net.Conn { return c.Conn }

func (l *Limit) forget(c *conn) {
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
}

// admit counts a new connection, after it has made room for it if need be. It
// returns nil when there is none.
func (l *Limit) admit(raw net.Conn) *conn {
	c := &conn{Conn: raw, limit: l, address: addressOf(raw.RemoteAddr())}
	now := time.Now()
	c.waiting.Store(now.UnixNano())
	l.mu.Lock()
	var longest []*conn
	if len(l.open) >= l.most {
		longest = l.makeRoom(now)
	}
	admitted := len(l.open) < l.most+l.spare
	if admitted {
		c.full = len(l.open) >= l.most
		l.open[c] = struct{}{}
	}
	l.mu.Unlock()

	for _, old := range longest {
		_ = old.Conn.Close()
	}
	l.closed.Add(int64(len(longest)))
	switch {
	case !admitted:
		l.dropped.Add(1)
		return nil
	case c.full:
		l.full.Add(1)
	}
	return c
}

const (
	// batch is the share of all connections that makes room at once: looking at all
	// of them takes 2 ms for 10,000.
	batch = 64
	// barrenFor is how long makeRoom rests after it has found nothing.
	barrenFor = 100 * time.Millisecond
)

// makeRoom forgets connections that wait and returns them. The caller closes them.
func (l *Limit) makeRoom(now time.Time) []*conn {
	if now.Before(l.barren) {
		return nil
	}
	type candidate struct {
		conn  *conn
		since int64
		rank  int // how many of the same address have waited less long
	}
	var waiting []candidate
	for c := range l.open {
		if since := c.waiting.Load(); since != 0 {
			waiting = append(waiting, candidate{conn: c, since: since})
		}
	}
	if len(waiting) == 0 {
		l.barren = now.Add(barrenFor)
		return nil
	}
	slices.SortFunc(waiting, func(a, b candidate) int { return cmp.Compare(b.since, a.since) })
	seen := make(map[netip.Prefix]int)
	for i := range waiting {
		address := waiting[i].conn.address
		waiting[i].rank = seen[address]
		seen[address]++
	}
	slices.SortFunc(waiting, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.since, b.since))
	})
	var longest []*conn
	for _, w := range waiting[:min(len(waiting), max(1, l.most/batch))] {
		delete(l.open, w.conn)
		longest = append(longest, w.conn)
	}
	return longest
}

// addressOf is a client's address, of IPv6 the /64 that one client has to itself.
func addressOf(a net.Addr) netip.Prefix {
	parsed, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	address := parsed.Addr().Unmap().WithZone("")
	bits := address.BitLen()
	if address.Is6() {
		bits = 64
	}
	prefix, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// ConnState is for http.Server.ConnState.
func (l *Limit) ConnState(nc net.Conn, state http.ConnState) {
	c, ok := nc.(*conn)
	if !ok {
		return
	}
	switch state {
	case http.StateIdle:
		c.waiting.Store(time.Now().UnixNano())
	case http.StateActive, http.StateHijacked:
		c.waiting.Store(0)
	}
}

type fullKey struct{}

// ConnContext is for http.Server.ConnContext.
func (l *Limit) ConnContext(ctx context.Context, nc net.Conn) context.Context {
	if c, ok := nc.(*conn); ok && c.full {
		return context.WithValue(ctx, fullKey{}, true)
	}
	return ctx
}

// Full reports whether a request came on a connection that is one too many: it is to
// be answered 503, and its connection closed.
func Full(ctx context.Context) bool { return ctx.Value(fullKey{}) != nil }
