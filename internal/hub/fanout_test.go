package hub_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/hub"
	"restante/internal/testdb"
	"restante/internal/tokens"
)

// listener is a Fanout that runs, and what it has received.
type listener struct {
	*hub.Fanout
	resyncs atomic.Int64

	mu      sync.Mutex // guards all below
	heads   []events.Head
	entries []events.Entry
}

// startFanout runs a Fanout until the test ends, and waits until it listens.
func startFanout(t *testing.T, url, id string, change ...func(*hub.FanoutConfig)) *listener {
	t.Helper()
	l := &listener{}
	cfg := hub.FanoutConfig{
		ReplicaID: id, Connect: connector(t, url, nil), Box: tokens.NewBox(knownRing(t), id, "e"),
		Received: func(heads []events.Head, entries []events.Entry) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.entries = append(l.entries, entries...)
			l.heads = append(l.heads, heads...)
		},
		Resync: func(context.Context) { l.resyncs.Add(1) },
		Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	}
	for _, c := range change {
		c(&cfg)
	}
	l.Fanout = hub.NewFanout(cfg)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	until(t, "listening", l.Listening)
	return l
}

func connector(t *testing.T, url string, dial func(context.Context, string, string) (net.Conn, error)) func(context.Context) (*pgx.Conn, error) {
	t.Helper()
	cfg, err := database.SignalConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if dial != nil {
		cfg.DialFunc = dial
	}
	return database.Connector(cfg)
}

func (l *listener) receives(t *testing.T, want events.Head) {
	t.Helper()
	until(t, fmt.Sprint("received ", want), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return slices.Contains(l.heads, want)
	})
}

// until polls a condition, for what happens in the background.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not: %s", what)
		}
	}
}

// tap listens to the channel itself and returns a function that hands out the
// payloads so far.
func tap(t *testing.T, url string) func() []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "LISTEN restante_wake"); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var payloads []string
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			n, err := conn.WaitForNotification(ctx)
			if err != nil {
				return
			}
			mu.Lock()
			payloads = append(payloads, n.Payload)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		stop()
		<-done
		_ = conn.Close(context.Background())
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(payloads)
	}
}

func notify(t *testing.T, db *testdb.Database, payload string) {
	t.Helper()
	if _, err := db.Pool.Exec(t.Context(), `SELECT pg_notify('restante_wake', $1)`, payload); err != nil {
		t.Fatal(err)
	}
}

// Notifying takes a lock of the whole cluster: alone, a replica says nothing. The
// moment another one listens it is told, without waiting for a heartbeat.
func TestNobodyIsNotifiedWhileNoOtherReplicaLives(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	a := startFanout(t, db.URL, "a")
	a.Publish([]events.Head{{UserID: "al", Seq: 1}}, nil)
	b := startFanout(t, db.URL, "b")
	until(t, "a hears of b", func() bool {
		a.Publish([]events.Head{{UserID: "al", Seq: 2}}, nil)
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.heads) > 0
	})
	b.receives(t, events.Head{UserID: "al", Seq: 2})
	b.mu.Lock()
	if b.heads[0].Seq != 2 {
		t.Errorf("sent while nobody was there: %v", b.heads)
	}
	b.mu.Unlock()
	a.SetPeers(0) // the heartbeat counts b no more
	a.Publish([]events.Head{{UserID: "al", Seq: 3}}, nil)
	a.SetPeers(1)
	a.Publish([]events.Head{{UserID: "bea", Seq: 1}}, nil)
	b.receives(t, events.Head{UserID: "bea", Seq: 1})
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.Contains(b.heads, events.Head{UserID: "al", Seq: 3}) {
		t.Error("sent after the other replica had gone")
	}
}

// Postgres refuses payloads of 8000 bytes and more, and each costs a transaction.
func TestManyWakesAreFewPayloads(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	payloads := tap(t, db.URL)
	a, b := startFanout(t, db.URL, "a"), startFanout(t, db.URL, "b")
	a.SetPeers(1)
	const users = 3000
	long := strings.Repeat("ü", 100)
	for i := range users {
		a.Publish([]events.Head{{UserID: fmt.Sprint(long, i), Seq: int64(i + 1)}}, nil)
	}
	until(t, "all are named", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.heads) >= users
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[string]int64{}
	for _, h := range b.heads {
		seen[h.UserID] = h.Seq
	}
	for i := range users {
		if seq := seen[fmt.Sprint(long, i)]; seq != int64(i+1) {
			t.Fatalf("user %d: head %d", i, seq)
		}
	}
	sent := payloads()
	if n := len(sent); n > users/10 {
		t.Errorf("%d payloads for %d users", n, users)
	}
	for _, p := range sent {
		if len(p) >= 8000 {
			t.Errorf("payload of %d bytes", len(p))
		}
	}
}

// "Look" (head 0) asks for more than a head does, and outlives the merging.
func TestMergedWakesKeepTheStrongest(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	a, b := startFanout(t, db.URL, "a"), startFanout(t, db.URL, "b")
	a.SetPeers(1)
	a.Publish([]events.Head{{UserID: "al", Seq: 5}, {UserID: "bea", Seq: 3}, {UserID: "al"}, {UserID: "bea", Seq: 2}, {UserID: "al", Seq: 7}, {UserID: "cem"}, {UserID: "cem", Seq: 1}}, nil)
	for _, want := range []events.Head{{UserID: "al"}, {UserID: "bea", Seq: 3}, {UserID: "cem"}} {
		b.receives(t, want)
	}
}

// The counter-example: telephone numbers, taken for the line with the messages.
func TestUsersWhoseIDsBeginLikeALineOfOurs(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	keys := ring(t)
	a, b := startFanout(t, db.URL, "a", boxed(keys, "e")), startFanout(t, db.URL, "b", boxed(keys, "e"))
	a.SetPeers(1)
	for i, user := range []string{"+", "+4917012345", "++", "+AAAA"} {
		a.Publish([]events.Head{{UserID: user, Seq: 1}}, slices.Values([]events.Entry{posted(user, 1, `"hello"`)}))
		b.receives(t, events.Head{UserID: user, Seq: 1})
		if seqs := b.carried(user); !slices.Equal(seqs, []int64{1}) {
			t.Errorf("user %d, %q: %v came along", i, user, seqs)
		}
	}
}

// Whoever may connect to the database may NOTIFY. Nothing of that is believed, and
// what an older release sends in plain text is not either.
func TestForeignPayloads(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	a := startFanout(t, db.URL, "a")
	for _, payload := range []string{"", "\n", "b", "b\n", "b\nal", "b\nal\tx", "b\n\t\t\t", "a\nown\t1", "b\nal\t7", "b\nAAAA", strings.Repeat("x", 7999)} {
		notify(t, db, payload)
	}
	want := events.Head{UserID: "bea", Seq: 1}
	b := startFanout(t, db.URL, "b")
	b.SetPeers(1)
	b.Publish([]events.Head{want}, nil)
	a.receives(t, want)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.heads, []events.Head{want}) {
		t.Errorf("received %v, want %v", a.heads, want)
	}
}

// Whatever was sent while nobody listened is gone: every connect resynchronises.
func TestListenerComesBackAndLooks(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	a, b := startFanout(t, db.URL, "a"), startFanout(t, db.URL, "b")
	a.SetPeers(1)
	until(t, "resynchronised", func() bool { return b.resyncs.Load() == 1 })
	a.Publish([]events.Head{{UserID: "al", Seq: 1}}, nil)
	b.receives(t, events.Head{UserID: "al", Seq: 1})
	for n := int64(2); n <= 3; n++ {
		// All of them: those that listen and the one that sends.
		if _, err := db.Pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'restante signals'`); err != nil {
			t.Fatal(err)
		}
		until(t, "resynchronised", func() bool { return b.resyncs.Load() == n && a.Listening() && b.Listening() })
		until(t, "heard again", func() bool {
			a.Publish([]events.Head{{UserID: "al", Seq: n}}, nil) // the first may hit the broken connection
			b.mu.Lock()
			defer b.mu.Unlock()
			return slices.Contains(b.heads, events.Head{UserID: "al", Seq: n})
		})
	}
}

// freezing is a way to Postgres that can stop carrying bytes without an error, as
// a firewall that forgets a connection does.
type freezing struct {
	mu     sync.Mutex // guards all below
	frozen chan struct{}
	dials  int
}

func (f *freezing) dial(ctx context.Context, network, address string) (net.Conn, error) {
	real, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	frozen := f.frozen
	f.dials++
	f.mu.Unlock()
	near, far := net.Pipe()
	carry := func(to, from net.Conn) {
		defer to.Close()
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			select {
			case <-frozen:
				_, _ = io.Copy(io.Discard, from) // until it is closed
				return
			default:
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
	go carry(far, real)
	go carry(real, far)
	return near, nil
}

// freeze silences the connections there are; later ones work.
func (f *freezing) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.frozen)
	f.frozen = make(chan struct{})
}

// The counter-example: the connection is dead and says nothing about it. A
// listener that only waits, waits for ever.
func TestSilentListenerConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	way := &freezing{frozen: make(chan struct{})}
	a := startFanout(t, db.URL, "a", func(cfg *hub.FanoutConfig) { cfg.Connect = connector(t, db.URL, way.dial) })
	until(t, "resynchronised", func() bool { return a.resyncs.Load() == 1 })
	b := startFanout(t, db.URL, "b")
	b.SetPeers(1)
	b.Publish([]events.Head{{UserID: "al", Seq: 1}}, nil)
	a.receives(t, events.Head{UserID: "al", Seq: 1})
	way.freeze()
	b.Publish([]events.Head{{UserID: "al", Seq: 2}}, nil)
	until(t, "resynchronised", func() bool { return a.resyncs.Load() == 2 })
	b.Publish([]events.Head{{UserID: "al", Seq: 3}}, nil)
	a.receives(t, events.Head{UserID: "al", Seq: 3})
}

// Silence alone is no reason to connect again.
func TestQuietListenerKeepsItsConnection(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	a := startFanout(t, db.URL, "a")
	pings := 0
	until(t, "the connection has been pinged", func() bool {
		err := db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
			AND application_name = 'restante signals' AND query LIKE '-- ping%'`).Scan(&pings)
		if err != nil {
			t.Fatal(err)
		}
		return pings > 0
	})
	b := startFanout(t, db.URL, "b")
	b.SetPeers(1)
	b.Publish([]events.Head{{UserID: "al", Seq: 1}}, nil)
	a.receives(t, events.Head{UserID: "al", Seq: 1})
	if n := a.resyncs.Load(); n != 1 {
		t.Errorf("connected %d times", n)
	}
}
