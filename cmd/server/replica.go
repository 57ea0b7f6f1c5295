package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"restante/internal/api"
	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/hub"
	"restante/internal/identity"
	"restante/internal/jobs"
	"restante/internal/publishers"
	"restante/internal/tokens"
	"restante/internal/ws"
	"restante/migrations"
)

// replica is one gateway on one history of the log, wired but not running.
type replica struct {
	id       string
	cfg      config
	logger   *slog.Logger
	registry *prometheus.Registry

	history *events.History
	link    *database.Link

	durable, relaxed, river *pgxpool.Pool
	log                     *events.Log
	hub                     *hub.Hub
	heart                   *hub.Heart
	fanout                  *hub.Fanout
	jobs                    *jobs.Jobs
	keyring                 *tokens.Keyring
	sockets                 *ws.Handler
	api                     *api.API

	draining atomic.Bool     // /readyz says so
	parts    *errgroup.Group // what run runs
}

// newReplica connects, checks the schema, wires everything together and takes the
// lease. The caller runs it with run, or else closes its pools with close.
//
// keyring is that of the replica before it in this process, nil for none: its file may
// be unreadable by now.
func newReplica(ctx context.Context, cfg config, keyring *tokens.Keyring, logger *slog.Logger) (_ *replica, err error) {
	r := &replica{id: newReplicaID(), cfg: cfg, keyring: keyring, registry: prometheus.NewRegistry()}
	r.logger = logger.With("replica", r.id)
	r.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			r.close()
		}
	}()

	if err := r.waitForLog(ctx); err != nil {
		return nil, err
	}
	if err := r.openPools(ctx); err != nil {
		return nil, err
	}
	if r.keyring == nil {
		if r.keyring, err = openKeyring(cfg, r.logger); err != nil {
			return nil, err
		}
	}
	if err := r.wire(); err != nil {
		return nil, err
	}
	return r, r.firstBeat(ctx)
}

// newReplicaID is new at every start: with a fixed one, the sessions that a dead
// process has left in the database would live again.
func newReplicaID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "replica"
	}
	return strings.ToLower(host[:min(len(host), 40)] + "-" + rand.Text()[:10])
}

func (r *replica) openPools(ctx context.Context) error {
	r.link = database.NewLink(r.history.Check)
	durable, err := database.DurableConfig(r.cfg.databaseURL, r.cfg.durableMax)
	if err != nil {
		return err
	}
	relaxed, err := database.RelaxedConfig(r.cfg.databaseURL, r.cfg.relaxedMax)
	if err != nil {
		return err
	}
	river, err := database.JobsConfig(r.cfg.databaseURL, r.cfg.jobsMax)
	if err != nil {
		return err
	}
	if r.durable, err = r.link.Open(ctx, durable); err != nil {
		return err
	}
	if r.relaxed, err = r.link.Open(ctx, relaxed); err != nil {
		return err
	}
	r.river, err = r.link.Open(ctx, river)
	return err
}

// waitForLog returns when there is a database that takes writes, its schema is the one
// this program was built for, and its history is known; without -wait-for-db it looks
// once.
func (r *replica) waitForLog(ctx context.Context) error {
	for {
		err := r.openLog(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.New("interrupted while waiting for the database")
		case !r.cfg.waitForDB && (errors.Is(err, migrations.ErrBehind) || errors.Is(err, events.ErrReadOnly)):
			return err
		case !r.cfg.waitForDB:
			return fmt.Errorf("the database does not answer: %w\nIs it running, and is -database-url right? With -wait-for-db the server waits for it", err)
		}
		r.logger.Info("waiting for the database", "err", err)
		timer := time.NewTimer(time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// openLog checks the schema and reads the history, on a connection of its own: those
// of the pools are compared with what it finds.
func (r *replica) openLog(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cfg, err := database.DurableConfig(r.cfg.databaseURL, 1)
	if err != nil {
		return err
	}
	conn, err := database.Connector(cfg.ConnConfig)(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := migrations.Check(ctx, conn); err != nil {
		return err
	}
	r.history, err = events.OpenHistory(ctx, conn, r.logger)
	return err
}

func openKeyring(cfg config, logger *slog.Logger) (*tokens.Keyring, error) {
	if cfg.tokenKeyring != "" {
		return tokens.OpenKeyring(cfg.tokenKeyring, logger)
	}
	keys, err := tokens.ParseKeys([]byte(cfg.tokenKeys))
	if err != nil {
		return nil, fmt.Errorf("token keys: %w", err)
	}
	return tokens.NewKeyring(keys...)
}

// wire is the architecture: who knows whom.
func (r *replica) wire() error {
	cfg := r.cfg
	signals, err := database.SignalConfig(cfg.databaseURL)
	if err != nil {
		return err
	}
	connect := r.link.Connector(signals)
	epoch := r.history.Epoch()

	r.log = events.New(events.Config{
		Durable: r.durable, Relaxed: r.relaxed, Upkeep: r.river,
		OnCommit: func(heads []events.Head, entries iter.Seq[events.Entry]) {
			r.hub.Wake(hub.FromCommit, heads)
			r.fanout.Publish(heads, entries)
		},
		DeliverDelay: cfg.deliverDelay, Lease: cfg.lease, Retention: cfg.retention, MaxPending: int64(cfg.maxPending), KeyRetention: cfg.keyRetention,
		History: r.history,
		Metrics: r.registry,
	})
	r.registry.MustRegister(r.log.CensusCollector(), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "restante_epoch_info", Help: "1, labelled with the log's epoch as this replica knows it.", ConstLabels: prometheus.Labels{"epoch": epoch},
	}, func() float64 { return 1 }),
		database.NewPoolCollector("durable", r.durable), database.NewPoolCollector("relaxed", r.relaxed), database.NewPoolCollector("jobs", r.river),
		database.NewPostgresCollector(r.relaxed))

	r.heart = hub.NewHeart(r.id, cfg.listen, connect, r.log.Heartbeat)
	r.hub = hub.New(hub.Config{
		ReplicaID: r.id, Epoch: epoch,
		Beat: r.heart.Beat, Lease: cfg.lease, OnPeers: func(n int) { r.fanout.SetPeers(n) },
		SweepEvery: cfg.sweep, PingEvery: cfg.ping, PongTimeout: cfg.ping / 2, AckTimeout: cfg.ackTimeout,
		MaxAge: cfg.sessionMaxAge, MaxPerUser: cfg.sessionsMax,
		WindowMessages: cfg.windowMessages, WindowBytes: cfg.windowBytes,
		Logger: r.logger, Metrics: r.registry,
	}, r.log, r.log)
	r.fanout = hub.NewFanout(hub.FanoutConfig{
		ReplicaID: r.id, Connect: connect,
		Received: func(heads []events.Head, entries []events.Entry) {
			r.log.Received(entries) // first, or a session would wake and ask Postgres
			r.hub.Wake(hub.FromNotify, heads)
		},
		Resync: r.hub.Resync,
		Box:    tokens.NewBox(r.keyring, r.id, epoch),
		Logger: r.logger, Metrics: r.registry,
	})

	single := tokens.New(r.relaxed, r.keyring, tokens.Config{TTL: cfg.tokenTTL}, r.registry)
	r.jobs, err = jobs.New(jobs.Config{
		Pool: r.river, ReplicaID: r.id,
		Lanes: r.log, Log: r.log, Tokens: single,
		Wake: func(userID string) {
			look := []events.Head{{UserID: userID}}
			r.hub.Wake(hub.FromJob, look)
			r.fanout.Publish(look, nil)
		},
		PollEvery: cfg.jobPoll, DeliverDelay: cfg.deliverDelay,
		Logger: quieter(r.logger), Metrics: r.registry,
	})
	if err != nil {
		return err
	}

	r.sockets = ws.New(r.hub, ws.Config{
		Origins: cfg.origins, WriteTimeout: cfg.ackTimeout, MaxUnwritten: cfg.unwrittenBytes,
		Logger: r.logger, Metrics: r.registry,
	})
	r.api = api.New(api.Config{
		MaxMessageBytes: cfg.maxMessageBytes, MaxMessageDepth: cfg.maxMessageDepth, MaxTTL: cfg.maxTTL, Origins: cfg.origins,
		UserTokens: cfg.userTokens, UserConnects: cfg.userConnects,
		PublisherRate: cfg.publisherRate, PublisherBytes: cfg.publisherBytes,
	}, api.Deps{
		Log: r.log, Tokens: single,
		Identity:  identity.New(cfg.identity(), r.registry),
		Keys:      publishers.New(r.relaxed, r.registry),
		Connector: r.sockets,
		Ready:     r.ready,
		Metrics:   r.registry, Gatherer: r.registry, Logger: r.logger,
	})
	return nil
}

// readyTimeout bounds what a probe waits for Postgres, and how long it keeps one of
// the few connections of the appends: one that stands still answers nobody.
const readyTimeout = 2 * time.Second

// ready is what /readyz asks.
func (r *replica) ready(ctx context.Context) api.Readiness {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	hubErr := r.hub.Ready()
	var listenErr error
	if !r.fanout.Listening() {
		listenErr = errors.New("no LISTEN connection; messages from other replicas arrive by the sweep")
	}
	return api.Readiness{
		Draining: r.draining.Load(),
		Checks: []api.Check{
			{Name: "database", Err: r.takesWrites(ctx)},
			{Name: "history", Err: r.history.Err()},
			{Name: "lease", Err: hubErr},
			{Name: "listener", Err: listenErr},
		},
	}
}

// takesWrites asks a connection of the appends: one that is open still may belong to a
// server that was made read-only since.
func (r *replica) takesWrites(ctx context.Context) error {
	var readOnly bool
	err := r.durable.QueryRow(ctx, `SELECT current_setting('transaction_read_only')::bool`).Scan(&readOnly)
	if err == nil && readOnly {
		return events.ErrReadOnly
	}
	return err
}

// close closes what newReplica opened.
func (r *replica) close() {
	if r.heart != nil {
		r.heart.Stop()
	}
	for _, pool := range []*pgxpool.Pool{r.durable, r.relaxed, r.river} {
		if pool != nil {
			pool.Close()
		}
	}
}

// listen opens a listener, with an error that helps.
func listen(ctx context.Context, flagName, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%w\nIs something else running there? Choose another address with -%s", err, flagName)
	}
	return l, nil
}
