package hub

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"restante/internal/events"
)

const (
	// channel is one for all replicas: on PostgreSQL before 19 every listener of
	// the database is woken whatever the channel.
	channel = "restante_wake"

	// Notifying transactions hold a lock of the whole cluster while they commit, and
	// each wakes every replica: they share a rate. At once while tokens last, what is
	// pending merged into one payload above: pausing after each would cost 2 ms at
	// exactly the rates where it is not needed.
	notifyRate  = 1000 // per second, of all replicas but one together
	notifyLeast = 100  // per second, of each
	notifyBurst = 20

	notifyTimeout = 3 * time.Second
	pendingUsers  = 100_000 // users that may wait to be named; beyond it the sweep finds them
)

// Fanout tells the other replicas which streams have grown, and is told by
// them. It is a hint, sent after the commit and outside of its transaction (a
// transaction that notifies holds a cluster-wide lock across its fsync: a third
// of the throughput). What is lost, the sweep finds. The newest events go along
// while there is room, so that the others need not read them (see newEvents).
type Fanout struct {
	replicaID string
	connect   func(context.Context) (*pgx.Conn, error)
	received  func([]events.Head, []events.Entry)
	box       Box
	resync    func(context.Context)
	logger    *slog.Logger
	metrics   fanoutMetrics
	complain  rate.Sometimes // about what cannot be opened
	limit     *rate.Limiter
	peers     atomic.Int64
	listening atomic.Bool

	mu      sync.Mutex // guards pending and events
	pending map[string]int64
	events  newEvents
	ready   chan struct{} // has room for one: something is pending
}

type fanoutMetrics struct {
	sent       *prometheus.CounterVec
	sentUsers  prometheus.Counter
	received   prometheus.Counter
	dropped    prometheus.Counter
	listenerUp prometheus.Gauge
	reconnects prometheus.Counter

	sentEvents     prometheus.Counter
	receivedEvents prometheus.Counter
	unopened       prometheus.Counter
}

// FanoutConfig is what a Fanout needs; every field is required.
type FanoutConfig struct {
	ReplicaID string
	// Connect opens a connection of the fan-out's own, with
	// synchronous_commit=off.
	Connect func(context.Context) (*pgx.Conn, error)
	// Received is called with what other replicas have appended: how far streams have
	// grown, and those of the events that came along. It must not block.
	Received func([]events.Head, []events.Entry)
	// Box keeps notifications from whoever else may use the database, and those of
	// another epoch from this one.
	Box Box
	// Resync is called whenever notifications may have been missed.
	Resync  func(context.Context)
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// NewFanout makes a Fanout; Run runs it.
func NewFanout(cfg FanoutConfig) *Fanout {
	m := fanoutMetrics{
		sent:           prometheus.NewCounterVec(prometheus.CounterOpts{Name: "restante_notify_sent_total", Help: "Notifications sent to other replicas, by result."}, []string{"result"}),
		sentUsers:      prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_notify_sent_users_total", Help: "Users named in notifications."}),
		received:       prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_notify_received_total", Help: "Notifications of other replicas received."}),
		dropped:        prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_notify_dropped_users_total", Help: "Users not named because too many were waiting; the sweep finds them."}),
		sentEvents:     prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_notify_sent_messages_total", Help: "Messages that went along in notifications."}),
		receivedEvents: prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_notify_received_messages_total", Help: "Messages that came along in notifications of other replicas."}),
		unopened:       prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_notify_unopened_total", Help: "Notifications that could not be opened: the keyrings or epochs differ, another release or somebody else sent them. The sweep makes up for them."}),
		listenerUp:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "restante_listener_up", Help: "1 while the LISTEN connection is established."}),
		reconnects:     prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_listener_connects_total", Help: "Times the LISTEN connection was established."}),
	}
	cfg.Metrics.MustRegister(m.sent, m.sentUsers, m.received, m.dropped, m.sentEvents, m.receivedEvents, m.unopened, m.listenerUp, m.reconnects)
	for _, result := range []string{"ok", "failed"} {
		m.sent.WithLabelValues(result)
	}
	return &Fanout{
		replicaID: cfg.ReplicaID, connect: cfg.Connect, received: cfg.Received, box: cfg.Box, resync: cfg.Resync, logger: cfg.Logger,
		metrics: m, limit: rate.NewLimiter(notifyRate, notifyBurst), complain: rate.Sometimes{Interval: time.Minute}, pending: map[string]int64{}, ready: make(chan struct{}, 1),
	}
}

// SetPeers says how many other replicas are alive: while there are none, nothing
// is sent.
func (f *Fanout) SetPeers(n int) {
	f.peers.Store(int64(n))
	f.limit.SetLimit(max(notifyLeast, notifyRate/rate.Limit(max(n, 1))))
}

// Listening reports whether notifications are being received.
func (f *Fanout) Listening() bool { return f.listening.Load() }

// Publish tells the other replicas how far streams have grown, and as many of the
// entries, in seq order per user, as go along; nil for none. It does not block.
func (f *Fanout) Publish(heads []events.Head, entries iter.Seq[events.Entry]) {
	if f.peers.Load() == 0 {
		return
	}
	f.mu.Lock()
	for _, h := range heads {
		known, waiting := f.pending[h.UserID]
		switch {
		case !waiting && len(f.pending) >= pendingUsers:
			f.metrics.dropped.Inc()
		case !waiting || known != 0 && h.Seq == 0:
			f.pending[h.UserID] = h.Seq // 0 asks for more than a head does: it stays
		case known != 0:
			f.pending[h.UserID] = max(known, h.Seq)
		}
	}
	if entries != nil {
		f.events.add(entries)
	}
	f.mu.Unlock()
	f.kick()
}

func (f *Fanout) kick() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// send sends what is pending until ctx ends, on a connection of its own.
func (f *Fanout) send(ctx context.Context) {
	var conn *pgx.Conn
	defer func() { closeConn(conn) }()
	f.pace(ctx, func(payload string) (err error) {
		conn, err = f.notify(ctx, conn, payload)
		return err
	})
}

// pace hands out what is pending as payloads, no faster than the limit, until ctx
// ends.
func (f *Fanout) pace(ctx context.Context, notify func(payload string) error) {
	for failures := 0; ; {
		select {
		case <-f.ready:
		case <-ctx.Done():
			return
		}
		// Before what is pending is taken: what comes while it waits goes along.
		if f.limit.Wait(ctx) != nil {
			return
		}
		select {
		case <-f.ready:
		default:
		}
		for i, payload := range f.take() {
			if i > 0 && f.limit.Wait(ctx) != nil {
				return
			}
			if err := notify(payload); err != nil {
				// Not repeated: by then it is old news, and the sweep has found it.
				f.metrics.sent.WithLabelValues("failed").Inc()
				if failures++; failures == 1 {
					f.logger.Warn("notification failed; the sweep makes up for it", "err", err)
				}
				continue
			}
			failures = 0
			f.metrics.sent.WithLabelValues("ok").Inc()
		}
	}
}

// take returns what is pending as payloads; the new events are in the first one.
func (f *Fanout) take() []string {
	f.mu.Lock()
	pending, along := f.pending, f.events
	f.pending, f.events = make(map[string]int64, len(pending)), newEvents{}
	f.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	var payloads []string
	c := content{events: along}
	for user, seq := range pending {
		if c.full(user) {
			payloads = f.seal(payloads, c)
			c = content{}
		}
		c.addHead(user, seq)
	}
	return f.seal(payloads, c)
}

// notify sends one payload, connecting first if need be; a connection that
// failed is closed and nil is returned for it.
func (f *Fanout) notify(ctx context.Context, conn *pgx.Conn, payload string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	if conn == nil {
		var err error
		if conn, err = f.connect(ctx); err != nil {
			return nil, err
		}
	}
	if _, err := conn.Exec(ctx, `SELECT pg_notify($1, $2)`, channel, payload); err != nil {
		closeConn(conn)
		return nil, fmt.Errorf("notify: %w", err)
	}
	return conn, nil
}

func closeConn(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing is left to do with it either way
}

// jitter is a random duration below d; 0 for none.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}
