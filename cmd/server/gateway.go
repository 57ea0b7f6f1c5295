package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"restante/internal/accept"
	"restante/internal/api"
	"restante/internal/buildinfo"
	"restante/internal/events"
)

// gateway serves one history of the log after the other behind the same listeners.
// A replica belongs to one history: when that changes, the replica ends and a new one
// is built, so nothing of the old one (an ack, a copy of an event, the end of a job)
// can count in the new one. Its handlers stay until the new ones are there, and
// answer 503.
type gateway struct {
	cfg    config
	logger *slog.Logger
	admin  *admin
	public net.Listener
	limit  *accept.Limit // of public's connections
	server *http.Server

	api     atomic.Pointer[http.Handler]
	serving chan struct{} // closed by the first show
	first   sync.Once
	changes prometheus.Counter
}

func newGateway(cfg config, logger *slog.Logger, public net.Listener, limit *accept.Limit, admin *admin) *gateway {
	g := &gateway{
		cfg: cfg, logger: logger, admin: admin, public: limit.Listener(public), limit: limit, serving: make(chan struct{}),
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "restante_epoch_changes_total", Help: "Times the log's history changed and the replica started anew.",
		}),
	}
	g.server = newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if accept.Full(r.Context()) {
			api.Full(w)
			return
		}
		(*g.api.Load()).ServeHTTP(w, r)
	}), 30*time.Second, limit, logger)
	return g
}

// run serves until ctx ends or a part fails; the first replica is wired already.
func (g *gateway) run(ctx context.Context, r *replica) error {
	defer g.public.Close()
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error {
		select {
		case <-g.serving:
			return serveHTTP(g.server, g.public)
		case <-running.Done():
			return nil
		}
	})
	memoryCtx, stopMemory := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return new(memory).run(memoryCtx) })
	group.Go(func() error {
		defer stopMemory()
		defer g.server.Close() // shut down by then, unless the replica has failed
		for {
			started := time.Now()
			err := r.run(running, g)
			if !errors.Is(err, events.ErrHistoryChanged) {
				return err
			}
			g.changes.Inc()
			old := r
			group.Go(func() error { old.bury(); return nil })
			if time.Since(started) < renewPause {
				pause(running, renewPause) // two servers take turns behind one address
			}
			if r = g.renew(running, old); r == nil {
				return nil
			}
		}
	})
	return group.Wait()
}

// renew builds a replica for the history that the log has now, and waits as long as
// that takes: the database may be down, or in the middle of a restore. It returns nil
// when ctx ends.
func (g *gateway) renew(ctx context.Context, old *replica) *replica {
	g.logger.Error("the log's history changed; the replica starts anew and clients connect again. Messages that were answered 202 shortly before may be missing: see RestanteEpochChanged in deploy/RUNBOOK.md",
		"err", old.history.Err(), "epoch", old.history.Epoch())
	cfg := g.cfg
	cfg.waitForDB = true
	for {
		r, err := newReplica(ctx, cfg, old.keyring, g.logger)
		if err == nil {
			return r
		}
		if ctx.Err() != nil {
			return nil
		}
		g.logger.Warn("the replica could not start; it is repeated", "err", err)
		pause(ctx, renewPause)
	}
}

// renewPause is between two attempts to build a replica, give or take a half.
const renewPause = time.Second

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// show sends requests to a replica from now on.
func (g *gateway) show(r *replica) {
	r.registry.MustRegister(g.changes, g.limit)
	handler := r.api.Handler()
	g.api.Store(&handler)
	g.admin.show(r.api.Admin())
	g.first.Do(func() { close(g.serving) })
	r.logger.Info("serving", "address", g.public.Addr().String(), "admin", g.admin.address(), "epoch", r.history.Epoch(), "version", buildinfo.Read().String())
}
