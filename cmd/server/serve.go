package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"restante/internal/buildinfo"
)

// serve runs one replica until ctx ends, and drains it. The admin listener answers
// from the start: who may wait for Postgres must not be taken for dead. The API's
// opens when there is something behind it.
func serve(ctx context.Context, cfg config, logger *slog.Logger) error {
	limit, err := publicLimit(cfg, openFiles())
	if err != nil {
		return err
	}
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
		r, err := newReplica(running, cfg, nil, logger)
		if err != nil {
			return err
		}
		public, err := listen(running, "listen", cfg.listen)
		if err != nil {
			r.close()
			return err
		}
		return newGateway(cfg, logger, public, limit, admin).run(running, r)
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
//
// When the log's history changes, run ends sessions and connections to Postgres at
// once and returns ErrHistoryChanged; the caller calls bury.
func (r *replica) run(ctx context.Context, g *gateway) error {
	// Stopping is by steps, so each step has a context of its own; ctx only starts
	// it. If a part fails, failed ends and all stop.
	parts, failed := errgroup.WithContext(context.WithoutCancel(ctx))
	logCtx, stopLog := context.WithCancel(failed)
	defer stopLog()
	upkeep, stopUpkeep := context.WithCancel(failed)
	defer stopUpkeep()
	working, stopJobs := context.WithCancel(failed)
	defer stopJobs()

	r.parts = parts
	parts.Go(func() error { return r.log.Run(logCtx) })
	parts.Go(func() error { return r.keyring.Run(upkeep) })
	parts.Go(func() error { return r.hub.Run(upkeep) })
	parts.Go(func() error { return r.fanout.Run(upkeep) })
	parts.Go(func() error { r.cutWhenChanged(logCtx); return nil })
	jobsDone := make(chan struct{})
	parts.Go(func() error { defer close(jobsDone); return r.jobs.Run(working) })
	g.show(r)

	select {
	case <-ctx.Done():
	case <-failed.Done():
	case <-r.history.Changed():
		r.link.Cut()
		r.hub.Abandon(abandonSpread)
		return r.history.Err()
	}
	defer r.close()
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
	draining.Go(func() error { return g.server.Shutdown(deadline) })
	draining.Go(func() error {
		r.hub.Drain(r.cfg.drainSpread)
		return r.sockets.Wait(deadline)
	})
	err := draining.Wait()
	<-jobsDone
	stopUpkeep()
	stopLog()
	err = errors.Join(err, parts.Wait())
	err = errors.Join(err, r.hub.Close(deadline))
	r.logger.Info("stopped", "elapsed_seconds", time.Since(start).Seconds(), "err", err)
	return err
}

// abandonSpread is the time within which the clients of a replica come back after
// the log's history changed: shorter than a drain's, for meanwhile nobody serves them.
const abandonSpread = 2 * time.Second

// cutWhenChanged ends the connections to Postgres when the log's history changes,
// whatever the replica is doing: it may be draining.
func (r *replica) cutWhenChanged(ctx context.Context) {
	select {
	case <-r.history.Changed():
		r.link.Cut()
	case <-ctx.Done():
	}
}

// bury waits for the parts of a replica whose history ended. Nothing of it reaches
// Postgres, so its errors say nothing.
func (r *replica) bury() {
	ctx, cancel := context.WithTimeout(context.Background(), r.cfg.drainTimeout)
	defer cancel()
	_ = r.parts.Wait()
	_ = r.sockets.Wait(ctx)
	_ = r.hub.Close(ctx)
	r.close()
	r.logger.Info("ended with its history")
}

// firstBeat takes the replica's lease, before anything that the reaper of another
// replica could take for the remains of a dead one.
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
