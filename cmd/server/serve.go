package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"restante/internal/buildinfo"
)

// serve runs one replica until ctx ends, and drains it. The admin listener answers
// from the start: who may wait for Postgres must not be taken for dead. The API's
// opens when there is something behind it.
func serve(ctx context.Context, cfg config, logger *slog.Logger) error {
	listener, err := listen(ctx, "admin-listen", cfg.adminListen)
	if err != nil {
		return err
	}
	admin := newAdmin(listener, logger)
	logger.Info("starting", "admin", listener.Addr().String(), "version", buildinfo.Read().String())
	g, running := errgroup.WithContext(ctx)
	g.Go(admin.serve)
	g.Go(func() error {
		defer admin.close()
		r, err := newReplica(running, cfg, logger)
		if err != nil {
			return err
		}
		public, err := listen(running, "listen", cfg.listen)
		if err != nil {
			r.close()
			return err
		}
		return r.run(running, public, admin)
	})
	return g.Wait()
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
func (r *replica) run(ctx context.Context, public net.Listener, admin *admin) error {
	defer r.close()
	defer public.Close()
	admin.show(r.api.Admin())
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
	g.Go(func() error { return new(memory).run(upkeep) })
	g.Go(func() error { return r.fanout.Run(upkeep) })
	jobsDone := make(chan struct{})
	g.Go(func() error { defer close(jobsDone); return r.jobs.Run(working) })
	publicServer := newServer(r.api.Handler(), 30*time.Second, r.logger)
	g.Go(func() error { return serveHTTP(publicServer, public) })
	r.logger.Info("serving", "address", public.Addr().String(), "admin", admin.address(), "version", buildinfo.Read().String())

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
	err = errors.Join(err, g.Wait())
	err = errors.Join(err, r.hub.Close(deadline))
	r.logger.Info("stopped", "elapsed_seconds", time.Since(start).Seconds(), "err", err)
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
