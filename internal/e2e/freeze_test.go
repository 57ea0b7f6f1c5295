package e2e

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"restante/internal/testdb"
)

// way is a way to Postgres that can stop carrying bytes without an error: for
// whoever is at its end, Postgres stands still. What was sent meanwhile arrives at
// the thaw, as it does at a process that was stopped.
type way struct {
	url string

	mu     sync.Mutex    // guards thawed
	thawed chan struct{} // closed unless frozen
}

func startWay(t *testing.T, databaseURL string) *way {
	t.Helper()
	cfg, err := pgconn.ParseConfig(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Del("host")
	query.Del("port")
	u.Host, u.RawQuery = listener.Addr().String(), query.Encode()
	w := &way{url: u.String(), thawed: make(chan struct{})}
	close(w.thawed)

	ctx, stop := context.WithCancel(context.Background())
	var carrying sync.WaitGroup
	carrying.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			carrying.Go(func() { w.carry(ctx, near, cfg) })
		}
	})
	t.Cleanup(func() {
		stop()
		listener.Close()
		carrying.Wait()
	})
	return w
}

func (w *way) carry(ctx context.Context, near net.Conn, cfg *pgconn.Config) {
	defer near.Close()
	network, address := pgconn.NetworkAddress(cfg.Host, cfg.Port)
	far, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return
	}
	defer far.Close()
	defer context.AfterFunc(ctx, func() { near.Close(); far.Close() })()
	var both sync.WaitGroup
	both.Go(func() { w.copy(ctx, far, near) })
	both.Go(func() { w.copy(ctx, near, far) })
	both.Wait()
}

func (w *way) copy(ctx context.Context, to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		thawed := w.thawed
		w.mu.Unlock()
		select {
		case <-thawed:
		case <-ctx.Done():
			return
		}
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *way) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.thawed = make(chan struct{})
}

func (w *way) thaw() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.thawed)
}

// TestPostgresStandsStill: for a while Postgres answers nothing and breaks no
// connection. Everything that asks it gives up in time; afterwards all resumes by
// itself, on the same sockets.
func TestPostgresStandsStill(t *testing.T) {
	parallel(t)
	way := startWay(t, testdb.New(t).URL)
	w := newWorld(t, way.url)
	a, b := w.server(), w.server()
	ann, bob := w.connect(a, "ann"), w.connect(b, "bob")
	publishers := map[*server]*publisher{a: {w: w, number: 1}, b: {w: w, number: 2}}
	for s, p := range publishers {
		p.posts(s, "ann", 3)
		p.posts(s, "bob", 3)
	}
	eventually(t, "everything arrives", func() bool { return w.check.Waiting() == 0 })

	way.freeze()
	var asking sync.WaitGroup
	for s, p := range publishers {
		for range 5 { // more than there are connections for appends
			asking.Go(func() {
				if status := within(t, 10*time.Second, s, "/readyz"); status != http.StatusServiceUnavailable {
					t.Errorf("/readyz answered %d", status)
				}
				if status := within(t, 10*time.Second, s, "/livez"); status != http.StatusOK {
					t.Errorf("/livez answered %d", status)
				}
			})
		}
		asking.Go(func() {
			for range 3 {
				began := time.Now()
				unavailable(t, p, s)
				if took := time.Since(began); took > 20*time.Second {
					t.Errorf("a POST was answered after %v", took)
				}
			}
		})
	}
	asking.Wait()
	way.thaw()

	for s, p := range publishers {
		eventually(t, "messages are accepted again", func() bool {
			_, ok, err := p.post(t.Context(), s, "ann")
			if err != nil {
				t.Fatal(err)
			}
			return ok
		})
		p.posts(s, "ann", 2)
		p.posts(s, "bob", 2)
		eventually(t, "a replica is ready again", func() bool { return s.readyz() == http.StatusOK })
	}
	w.connect(a, "bob")
	w.verdict()
	if !ann.alive() || !bob.alive() {
		t.Error("a socket was closed")
	}
}

// within asks the admin listener, and returns the status, 0 for no answer in time.
func within(t *testing.T, limit time.Duration, s *server, path string) int {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	answer, err := s.w.send(ctx, "GET", s.admin+path, "", "")
	if err != nil {
		return 0
	}
	return answer.status
}
