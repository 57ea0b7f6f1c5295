package coretest

import (
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/hub"
	"restante/internal/jobs"
	"restante/internal/tokens"
)

// Options of a replica. Zero durations mean what the comment says.
type Options struct {
	URL          string        // the database
	DeliverDelay time.Duration // zero: at once
	JobPoll      time.Duration // zero: 50 ms
	NoJobs       bool          // do not work River's queues here
	Sweep        time.Duration // zero: no sweep
	Lease        time.Duration // zero: 12 s
	AckTimeout   time.Duration // zero: 30 s
	Ping         time.Duration // zero: 30 s
	Retention    time.Duration // zero: 24 h
	KeyRetention time.Duration // zero: 24 h
	WindowSize   int           // messages; zero: 1024

	// DropCommitWake decides, for each commit, whether this replica's own
	// sessions are not woken by it; DropNotify, whether the others are not told how far
	// streams have grown, and again, whether they are not told the events. nil: never.
	DropCommitWake func() bool
	DropNotify     func() bool
	// DropHeard decides whether a received notification is lost. nil: never.
	DropHeard func() bool
	// LoseReply decides, for each piece that Postgres sends, whether the connection
	// breaks instead: what was asked may have been done, and nobody knows. It is
	// not asked before the replica has started. nil: never.
	LoseReply func() bool

	Logger *slog.Logger // nil: none
}

// keyring is the same for all replicas, as it must be.
const keyring = `{"keys":[{"kty":"oct","kid":"test","k":"dGhlIHNhbWUgdGhpcnR5LXR3byBieXRlcyBldmVyeSE"}]}`

// Replica is a running core.
type Replica struct {
	ID               string
	Log              *events.Log
	Hub              *hub.Hub
	Fanout           *hub.Fanout
	Heart            *hub.Heart
	Jobs             *jobs.Jobs
	Durable, Relaxed *pgxpool.Pool
	River            *pgxpool.Pool
	Metrics          *prometheus.Registry
	History          *events.History // when it changes, the replica ends by itself

	link    *database.Link
	network *network
	stop    context.CancelFunc
	done    chan error
	killed  bool
}

// Start runs a replica; it is stopped, or killed if that fails, when the test ends.
func Start(t testing.TB, o Options) *Replica {
	t.Helper()
	r, err := start(t.Context(), o)
	if err != nil {
		t.Fatalf("start replica: %v", err)
	}
	t.Cleanup(func() {
		if !r.killed {
			r.Stop(t)
		}
	})
	return r
}

func start(ctx context.Context, o Options) (*Replica, error) {
	o = o.withDefaults()
	r := &Replica{ID: "test-" + strings.ToLower(rand.Text()[:10]), network: newNetwork(o.LoseReply), Metrics: prometheus.NewRegistry(), done: make(chan error, 1)}
	var err error
	if r.History, err = r.openHistory(ctx, o); err != nil {
		return nil, err
	}
	r.link = database.NewLink(r.History.Check)
	if r.Durable, err = r.pool(ctx, o.URL, database.DurableConfig); err != nil {
		return nil, err
	}
	if r.Relaxed, err = r.pool(ctx, o.URL, database.RelaxedConfig); err != nil {
		return nil, err
	}
	if r.River, err = r.pool(ctx, o.URL, database.JobsConfig); err != nil {
		return nil, err
	}
	signals, err := database.SignalConfig(o.URL)
	if err != nil {
		return nil, err
	}
	signals.DialFunc = r.network.dial
	if err := r.wire(o, r.link.Connector(signals)); err != nil {
		return nil, err
	}
	if _, err := r.Heart.Beat(ctx); err != nil {
		return nil, err
	}
	r.network.lossy.Store(true)
	r.run(o)
	return r, nil
}

func (o Options) withDefaults() Options {
	or := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	or(&o.JobPoll, 50*time.Millisecond)
	or(&o.Lease, 12*time.Second)
	or(&o.AckTimeout, 30*time.Second)
	or(&o.Ping, 30*time.Second)
	or(&o.Retention, 24*time.Hour)
	or(&o.KeyRetention, 24*time.Hour)
	if o.WindowSize == 0 {
		o.WindowSize = 1024
	}
	never := func() bool { return false }
	for _, drop := range []*func() bool{&o.DropCommitWake, &o.DropNotify, &o.DropHeard, &o.LoseReply} {
		if *drop == nil {
			*drop = never
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// openHistory reads the log's history on a connection of its own.
func (r *Replica) openHistory(ctx context.Context, o Options) (*events.History, error) {
	cfg, err := database.DurableConfig(o.URL, 1)
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig.DialFunc = r.network.dial
	conn, err := database.Connector(cfg.ConnConfig)(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return events.OpenHistory(ctx, conn, o.Logger)
}

func (r *Replica) pool(ctx context.Context, url string, config func(string, int) (*pgxpool.Config, error)) (*pgxpool.Pool, error) {
	cfg, err := config(url, 6)
	if err != nil {
		return nil, err
	}
	cfg.ConnConfig.DialFunc = r.network.dial
	return r.link.Open(ctx, cfg)
}

func (r *Replica) wire(o Options, connect func(context.Context) (*pgx.Conn, error)) (err error) {
	r.Log = events.New(events.Config{
		Durable: r.Durable, Relaxed: r.Relaxed, Upkeep: r.River,
		OnCommit: func(heads []events.Head, entries iter.Seq[events.Entry]) {
			if !o.DropCommitWake() {
				r.Hub.Wake(hub.FromCommit, heads)
			}
			if o.DropNotify() {
				heads = nil
			}
			if o.DropNotify() {
				entries = nil
			}
			r.Fanout.Publish(heads, entries)
		},
		DeliverDelay: o.DeliverDelay, Lease: o.Lease, Retention: o.Retention, KeyRetention: o.KeyRetention, History: r.History, Metrics: r.Metrics,
	})
	epoch := r.History.Epoch()
	keys, err := tokens.ParseKeys([]byte(keyring))
	if err != nil {
		return err
	}
	ring, err := tokens.NewKeyring(keys...)
	if err != nil {
		return err
	}
	r.Heart = hub.NewHeart(r.ID, "test", connect, r.Log.Heartbeat)
	r.Hub = hub.New(hub.Config{
		ReplicaID: r.ID, Epoch: epoch, Beat: r.Heart.Beat, Lease: o.Lease, OnPeers: func(n int) { r.Fanout.SetPeers(n) },
		SweepEvery: o.Sweep, PingEvery: o.Ping, PongTimeout: o.Ping / 2, AckTimeout: o.AckTimeout,
		MaxAge: time.Hour, MaxPerUser: 100, WindowMessages: o.WindowSize, WindowBytes: 1 << 20,
		Logger: o.Logger, Metrics: r.Metrics,
	}, r.Log, r.Log)
	r.Fanout = hub.NewFanout(hub.FanoutConfig{
		ReplicaID: r.ID, Connect: connect,
		Box: tokens.NewBox(ring, r.ID, epoch),
		Received: func(heads []events.Head, entries []events.Entry) {
			if !o.DropHeard() {
				r.Log.Received(entries)
				r.Hub.Wake(hub.FromNotify, heads)
			}
		},
		Resync: func(ctx context.Context) {
			if o.Sweep > 0 {
				r.Hub.Resync(ctx)
			}
		},
		Logger: o.Logger, Metrics: r.Metrics,
	})
	r.Jobs, err = jobs.New(jobs.Config{
		Pool: r.River, ReplicaID: r.ID, Lanes: r.Log, Log: r.Log, Tokens: noTokens{},
		Wake: func(userID string) {
			look := []events.Head{{UserID: userID}}
			r.Hub.Wake(hub.FromJob, look)
			r.Fanout.Publish(look, nil)
		},
		PollEvery: o.JobPoll, DeliverDelay: o.DeliverDelay, Logger: o.Logger, Metrics: r.Metrics,
	})
	return err
}

// noTokens: the core has none to purge.
type noTokens struct{}

func (noTokens) Purge(context.Context) (int64, error) { return 0, nil }

func (r *Replica) run(o Options) {
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	var g errgroup.Group
	for _, run := range []func(context.Context) error{r.Log.Run, r.Hub.Run, r.Fanout.Run} {
		g.Go(func() error { return run(ctx) })
	}
	if !o.NoJobs {
		g.Go(func() error { return r.Jobs.Run(ctx) })
	}
	g.Go(func() error { r.endWithHistory(ctx); return nil })
	go func() { r.done <- g.Wait() }()
}

// endWithHistory does what cmd/server does with a replica whose history changed.
func (r *Replica) endWithHistory(ctx context.Context) {
	select {
	case <-r.History.Changed():
		r.link.Cut()
		r.Hub.Abandon(0)
		r.stop()
	case <-ctx.Done():
	}
}

// Stop ends the replica in order: it drains, detaches and leaves.
func (r *Replica) Stop(t testing.TB) {
	t.Helper()
	r.Hub.Drain(0)
	r.stop()
	if err := <-r.done; err != nil && r.History.Err() == nil {
		t.Errorf("stop replica: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.Hub.Close(ctx); err != nil && r.History.Err() == nil {
		t.Errorf("stop replica: %v", err)
	}
	r.killed = true
	r.Heart.Stop()
	r.Durable.Close()
	r.Relaxed.Close()
	r.River.Close()
}

// Kill ends the replica as a crash would: its connections break in the middle of
// whatever they carry, nothing is written any more, and its rows stay.
func (r *Replica) Kill() {
	r.killed = true
	r.network.cut()
	r.stop()
	<-r.done
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r.Hub.Drain(0)
	_ = r.Hub.Close(ctx) // nothing of it reaches the database
	r.Heart.Stop()
	r.Durable.Close()
	r.Relaxed.Close()
	r.River.Close()
}

// network is the way to Postgres, until it is cut.
type network struct {
	loseReply func() bool
	lossy     atomic.Bool // loseReply is asked

	mu    sync.Mutex // guards all below
	isCut bool
	conns map[net.Conn]bool
}

var (
	errCut  = errors.New("the network is cut")
	errLost = errors.New("the connection broke before the answer")
)

func newNetwork(loseReply func() bool) *network {
	return &network{loseReply: loseReply, conns: map[net.Conn]bool{}}
}

func (n *network) dial(ctx context.Context, kind, address string) (net.Conn, error) {
	n.mu.Lock()
	isCut := n.isCut
	n.mu.Unlock()
	if isCut {
		return nil, errCut
	}
	c, err := (&net.Dialer{}).DialContext(ctx, kind, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.isCut {
		c.Close()
		return nil, errCut
	}
	n.conns[c] = true
	return &conn{c, n}, nil
}

func (n *network) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.isCut = true
	for c := range n.conns {
		c.Close()
	}
}

// conn is one connection to Postgres.
type conn struct {
	net.Conn
	network *network
}

func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.network.lossy.Load() && c.network.loseReply() {
		c.Close()
		return 0, errLost
	}
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.network.mu.Lock()
	delete(c.network.conns, c.Conn)
	c.network.mu.Unlock()
	return c.Conn.Close()
}
