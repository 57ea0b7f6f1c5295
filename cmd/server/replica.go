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

// replica is one gateway, wired but not running.
type replica struct {
	id       string
	cfg      config
	logger   *slog.Logger
	registry *prometheus.Registry

	durable, relaxed, river *pgxpool.Pool
	log                     *events.Log
	hub                     *hub.Hub
	heart                   *hub.Heart
	fanout                  *hub.Fanout
	jobs                    *jobs.Jobs
	keyring                 *tokens.Keyring
	sockets                 *ws.Handler
	api                     *api.API

	draining atomic.Bool // /readyz says so
}

// newReplica connects, checks the schema and wires everything together. The
// caller runs it with run, or else closes its pools with close.
func newReplica(ctx context.Context, cfg config, logger *slog.Logger) (_ *replica, err error) {
	r := &replica{id: newReplicaID(), cfg: cfg, registry: prometheus.NewRegistry()}
	r.logger = logger.With("replica", r.id)
	r.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	defer func() {
		if err != nil {
			r.close()
		}
	}()

	if err := r.openPools(ctx); err != nil {
		return nil, err
	}
	if err := r.waitForSchema(ctx); err != nil {
		return nil, err
	}
	if r.keyring, err = openKeyring(cfg, r.logger); err != nil {
		return nil, err
	}
	if err := r.wire(ctx); err != nil {
		return nil, err
	}
	return r, nil
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
	if r.durable, err = database.Open(ctx, durable); err != nil {
		return err
	}
	if r.relaxed, err = database.Open(ctx, relaxed); err != nil {
		return err
	}
	r.river, err = database.Open(ctx, river)
	return err
}

// waitForSchema returns when the database is there and its schema is the one this
// program was built for; without -wait-for-db it looks once.
func (r *replica) waitForSchema(ctx context.Context) error {
	for {
		check, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := migrations.Check(check, r.relaxed)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return errors.New("interrupted while waiting for the database")
		case !r.cfg.waitForDB && errors.Is(err, migrations.ErrBehind):
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
func (r *replica) wire(ctx context.Context) error {
	cfg := r.cfg
	signals, err := database.SignalConfig(cfg.databaseURL)
	if err != nil {
		return err
	}
	connect := database.Connector(signals)

	r.log = events.New(events.Config{
		Durable: r.durable, Relaxed: r.relaxed, Upkeep: r.river,
		OnCommit: func(heads []events.Head, entries iter.Seq[events.Entry]) {
			r.hub.Wake(hub.FromCommit, heads)
			r.fanout.Publish(heads, entries)
		},
		DeliverDelay: cfg.deliverDelay, Lease: cfg.lease, Retention: cfg.retention,
		Metrics: r.registry,
	})
	epoch, err := r.log.Epoch(ctx)
	if err != nil {
		return err
	}
	r.registry.MustRegister(r.log.CensusCollector(),
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
		Heard: func(heads []events.Head, entries []events.Entry) {
			r.log.Heard(entries) // first, or a session would wake and ask Postgres
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

	r.sockets = ws.New(r.hub, ws.Config{AllowedOrigins: splitList(cfg.allowedOrigins), Logger: r.logger})
	r.api = api.New(api.Config{
		MaxMessageBytes: cfg.maxMessageBytes, MaxTTL: cfg.maxTTL, AllowedOrigins: splitList(cfg.allowedOrigins),
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
			{Name: "database", Err: r.durable.Ping(ctx)},
			{Name: "lease", Err: hubErr},
			{Name: "listener", Err: listenErr},
		},
	}
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
