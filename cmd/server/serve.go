package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"restante/internal/buildinfo"
)

// serve runs one replica until ctx ends, and drains it.
func serve(ctx context.Context, cfg config, logger *slog.Logger) error {
	public, err := listen(ctx, "listen", cfg.listen)
	if err != nil {
		return err
	}
	defer public.Close()
	admin, err := listen(ctx, "admin-listen", cfg.adminListen)
	if err != nil {
		return err
	}
	defer admin.Close()
	r, err := newReplica(ctx, cfg, logger)
	if err != nil {
		return err
	}
	return r.run(ctx, public, admin)
}

// run serves until ctx ends or a part fails, and then stops in this order:
//
//	readyz answers 503                    the load balancer looks elsewhere
//	wait -drain-delay                     … and has noticed
//	no new requests; finish those there   at the same time:
//	tell sessions to reconnect, end them
//	no new jobs; finish those there
//	write the last acks; let a heartbeat that is on its way arrive
//	give up the lease, close the pools
func (r *replica) run(ctx context.Context, public, admin net.Listener) error {
	defer r.close()
	// The first heartbeat comes before anything that the reaper of another replica
	// could take for the remains of a dead one.
	if err := r.firstBeat(ctx); err != nil {
		return err
	}

	// Stopping is by steps, so each step has a context of its own; ctx only starts
	// it. If a part fails, failed ends and all stop.
	g, failed := errgroup.WithContext(context.WithoutCancel(ctx))
	logCtx, stopLog := context.WithCancel(failed)
	defer stopLog()
	upkeep, stopUpkeep := context.WithCancel(failed)
	defer stopUpkeep()
	working, stopJobs := context.WithCancel(failed)
	defer stopJobs()

	g.Go(func() error { return r.log.Run(logCtx) })
	g.Go(func() error { return r.keyring.Run(upkeep) })
	g.Go(func() error { return r.hub.Run(upkeep) })
	g.Go(func() error { return r.fanout.Run(upkeep) })
	jobsDone := make(chan struct{})
	g.Go(func() error { defer close(jobsDone); return r.jobs.Run(working) })
	publicServer, adminServer := r.server(r.api.Handler(), 30*time.Second), r.server(r.api.Admin(), 2*time.Minute)
	g.Go(func() error { return serveHTTP(publicServer, public) })
	g.Go(func() error { return serveHTTP(adminServer, admin) })
	r.logger.Info("serving", "address", public.Addr().String(), "admin", admin.Addr().String(), "version", buildinfo.Read().String())

	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	r.logger.Info("stopping")
	start := time.Now()
	r.draining.Store(true)
	if failed.Err() == nil {
		wait(r.cfg.drainDelay)
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.drainTimeout)
	defer cancel()
	stopJobs()
	var draining errgroup.Group
	draining.Go(func() error { return publicServer.Shutdown(deadline) })
	draining.Go(func() error {
		r.hub.Drain(r.cfg.drainSpread)
		return r.sockets.Wait(deadline)
	})
	err := draining.Wait()
	<-jobsDone
	stopUpkeep()
	stopLog()
	err = errors.Join(err, adminServer.Close(), g.Wait())
	err = errors.Join(err, r.hub.Close(deadline))
	r.logger.Info("stopped", "elapsed", time.Since(start), "err", err)
	return err
}

// firstBeat takes the replica's lease.
func (r *replica) firstBeat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.lease)
	defer cancel()
	beat, err := r.heart.Beat(ctx)
	if err != nil {
		return fmt.Errorf("first heartbeat: %w", err)
	}
	r.fanout.SetPeers(beat.Peers)
	return nil
}

func (r *replica) server(handler http.Handler, writeTimeout time.Duration) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    24 << 10, // an ID token may take 16 of it
		ErrorLog:          slog.NewLogLogger(r.logger.Handler(), slog.LevelDebug),
	}
}

func serveHTTP(server *http.Server, listener net.Listener) error {
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return nil
}

// wait waits; a second signal ends the process anyway.
func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}

// quieter keeps River's information to itself and passes on its warnings.
func quieter(logger *slog.Logger) *slog.Logger { return slog.New(warnings{logger.Handler()}) }

type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}

func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{w.Handler.WithAttrs(attrs)}
}
func (w warnings) WithGroup(name string) slog.Handler { return warnings{w.Handler.WithGroup(name)} }
