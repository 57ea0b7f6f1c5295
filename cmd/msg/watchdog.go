package main

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// A network that goes silent ends no connection by itself. We ping, so that
// something must come from a gateway that is there; and the gateway says how often it
// sends something of its own accord.
const (
	pingEvery   = 20 * time.Second
	longSilence = 30 * time.Second
)

// line is the network connection under a WebSocket. It knows for how long a read has
// waited: a slow network brings something now and then, even if a pong is stuck
// behind a long message; and while the terminal is stopped nobody reads.
type line struct {
	net.Conn
	since atomic.Int64 // when the read began that is waiting now; 0 if none is
	limit atomic.Int64 // of silence
}

// Read implements net.Conn.
func (l *line) Read(p []byte) (int, error) {
	l.since.Store(time.Now().UnixNano())
	defer l.since.Store(0)
	return l.Conn.Read(p)
}

func (l *line) silent() bool {
	since := l.since.Load()
	return since > 0 && time.Now().UnixNano()-since > l.limit.Load()
}

// expect sets how often the gateway sends something.
func (l *line) expect(every time.Duration) {
	if limit := every * 5 / 2; limit > 0 && limit < longSilence {
		l.limit.Store(int64(limit))
	}
}

// watch closes a connection on which nothing arrives, which ends its read.
func (l *line) watch(ctx context.Context, conn *websocket.Conn) {
	asked := time.Now()
	for {
		timer := time.NewTimer(time.Duration(l.limit.Load()) / 8)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if l.silent() {
			_ = conn.CloseNow()
			return
		}
		if time.Since(asked) >= pingEvery {
			asked = time.Now()
			// The answer is not waited for: whatever arrives is one.
			ping, cancel := context.WithTimeout(ctx, time.Second)
			_ = conn.Ping(ping)
			cancel()
		}
	}
}

// lineTo is a client for one connection, and that connection once it is open.
func lineTo() (*http.Client, *line) {
	l := &line{}
	l.limit.Store(int64(longSilence))
	return &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			l.Conn = conn
			return l, nil
		},
	}}, l
}
