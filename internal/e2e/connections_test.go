package e2e

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"restante/internal/testdb"
)

// TestSilentConnections: one address makes more connections than the replica may have
// files, to both listeners, and says nothing. Everything else works, on new connections:
// posts, connects, the admin listener, the keyring's reload and Postgres.
func TestSilentConnections(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s := w.launchAs([]string{"sh", "-c", `ulimit -n 256 && exec server "$@"`, "server"})
	s.serving()
	limit := s.metric("restante_connections_limit", "")
	if limit < 64 || limit > 150 {
		t.Fatalf("the limit is %v connections", limit)
	}
	keep(t, s.url, 400)
	keep(t, s.admin, 200)
	eventually(t, "the connections are there", func() bool {
		return s.metric("restante_connections_refused_total", `reason="silent"`) >= 300
	})

	w.web.Transport.(*http.Transport).DisableKeepAlives = true
	w.web.CloseIdleConnections()
	p := &publisher{w: w, number: 1}
	for range 20 {
		p.posts(s, "ann", 1)
		if status := s.readyz(); status != http.StatusOK {
			t.Fatalf("/readyz: %d", status)
		}
		if open := s.metric("process_open_fds", ""); open > 230 {
			t.Fatalf("%v files are open", open)
		}
	}
	do(t, nil, "msg", "keyring", "add", "-file", w.keyring)
	s.says(s.stderr, "keyring reloaded")
	c := w.connect(s, "ann")
	eventually(t, "everything arrives", func() bool { return len(c.messages()) == 20 })
	w.verdict()
}

// keep keeps connections to a listener, of which none says anything, until the test
// ends: one that is closed is made again.
func keep(t *testing.T, url string, connections int) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	flooder := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}} // pushes out its own connections only
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			for ctx.Err() == nil {
				c, err := flooder.DialContext(ctx, "tcp", strings.TrimPrefix(url, "http://"))
				if err != nil {
					continue
				}
				end := context.AfterFunc(ctx, func() { c.Close() })
				_, _ = c.Read(make([]byte, 1))
				end()
				c.Close()
				pause(ctx)
			}
		})
	}
	t.Cleanup(func() { stop(); all.Wait() })
}

// pause keeps the test from doing nothing else but connecting.
func pause(ctx context.Context) {
	timer := time.NewTimer(100 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
