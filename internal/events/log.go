package events

import (
	"context"
	"iter"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// Head says how far a user's stream has grown.
type Head struct {
	UserID string
	Seq    int64
}

// Config is what a Log needs. The pools and OnCommit are required.
type Config struct {
	// Durable commits to disk before it answers: appends and reads.
	Durable *pgxpool.Pool
	// Relaxed runs with synchronous_commit=off: acks, lanes, presence and trim; what
	// must be on disk all the same says so.
	// Losing the last of them in a crash of Postgres only delivers again.
	Relaxed *pgxpool.Pool
	// Upkeep is relaxed too and plans every statement anew: reconcile, reap, census and
	// the sweep of what is pending read much of a table or little, whatever it holds.
	Upkeep *pgxpool.Pool
	// OnCommit is told what has just been committed for users who may be connected, so
	// that sessions can be woken: how far streams have grown, and the events themselves,
	// to be ranged over during the call only. Users whose lane is parked are left out:
	// most messages are for somebody who is away, and to tell every replica of each
	// would cost more than to write it. The commit loops may call it at the same
	// time. It must not block.
	OnCommit func([]Head, iter.Seq[Entry])
	// History is what the log's history is compared with; nil for none. It must be
	// asked about every connection.
	History *History
	// DeliverDelay is how long after an append its delivery job becomes due.
	DeliverDelay time.Duration
	// Lease is how long a replica is taken for alive after its last heartbeat.
	Lease time.Duration
	// Retention is how long delivered events stay readable.
	Retention time.Duration
	// KeyRetention is how long an idempotency key is remembered at least, after its
	// append. One whose event is kept for longer is remembered as long as that.
	KeyRetention time.Duration
	// MaxPending is how many messages may be pending for one user; 0 for no bound.
	MaxPending int64
	// Metrics receives the log's metrics.
	Metrics prometheus.Registerer
}

// Log is the event log of one replica. All methods are safe for concurrent use.
type Log struct {
	cfg     Config
	metrics metrics
	appends *appender // of small requests
	reads   *reader
	acks    *acker
	tail    *tail

	largeAppends *appender
	aside        *aside
	overfull     *overfull

	turns     *turns        // of readers that come upon expired events
	expiring  chan struct{} // has room for as many as may delete them at a time
	stepping  chan struct{} // has room for as many as may step over them at a time
	waiting   chan struct{} // has room for as many as may wait for a stream's lock
	attaching chan struct{} // has room for as many connects as may wait for a stream's lock
	expired   atomic.Int64  // events that readers have expired, for Trim to report
}

// New makes a Log. Append, Read and Ack are served once Run is running.
func New(cfg Config) *Log {
	l := &Log{attaching: make(chan struct{}, attaching), cfg: cfg, metrics: newMetrics(cfg.Metrics), tail: newTail(), turns: newTurns(),
		expiring: make(chan struct{}, expiring), stepping: make(chan struct{}, stepping), waiting: make(chan struct{}, waiting)}
	small, large := newQueue(smallQuantum, smallRoom, sharedCost), newQueue(largeQuantum, largeRoom, maxCost)
	registerQueues(cfg.Metrics, small, large)
	l.aside = newAside(cfg, &l.metrics)
	l.appends = newAppender(cfg, &l.metrics, l.tail, small, l.aside)
	l.largeAppends = newAppender(cfg, &l.metrics, l.tail, large, l.aside)
	l.overfull = newOverfull(l)
	l.appends.overfull, l.largeAppends.overfull = l.overfull, l.overfull
	l.aside.log = l.appends
	l.reads = newReader(cfg, &l.metrics)
	l.acks = newAcker(cfg, &l.metrics)
	return l
}

// Run serves appends, reads and acks until ctx ends; then it answers what is
// queued, and whatever comes later, with ErrUnavailable, writes the last acks and
// returns nil.
func (l *Log) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { l.appends.run(ctx); return nil })
	g.Go(func() error { l.largeAppends.run(ctx); return nil })
	g.Go(func() error { l.aside.run(ctx); return nil })
	g.Go(func() error { l.overfull.run(ctx); return nil })
	for range readLoops {
		g.Go(func() error { l.reads.run(ctx); return nil })
	}
	g.Go(func() error { l.acks.run(ctx); return nil })
	return g.Wait()
}

// Received takes events that another replica has committed, in seq order per user, to
// keep them at hand for users watched here. They must be what the log holds, and of
// this epoch: nobody looks again.
func (l *Log) Received(entries []Entry) {
	for i := range entries {
		l.tail.push(entries[i].UserID, entries[i].Event)
	}
	if n := len(entries); n > 0 {
		l.cfg.History.hasReceived(&entries[n-1])
	}
}

// Watch keeps a copy of a user's newest events at hand, until Unwatch: call it
// when the user's first session of this replica opens.
func (l *Log) Watch(userID string) { l.tail.watch(userID) }

// Unwatch ends Watch: call it when the user's last session of this replica is gone.
func (l *Log) Unwatch(userID string) { l.tail.unwatch(userID) }
