package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"

	"restante/internal/events"
)

// Upkeep is what the periodic jobs do to the log.
type Upkeep interface {
	Trim(ctx context.Context, budget time.Duration) (events.Trimmed, error)
	Reconcile(ctx context.Context, longest time.Duration) (int64, error)
	Reap(ctx context.Context) (replicas, jobs int64, err error)
	TakeCensus(ctx context.Context) error
}

// Purger deletes tokens that nobody can use any more.
type Purger interface {
	Purge(ctx context.Context) (int64, error)
}

// The periodic jobs. They run on any replica, inserted by River's leader; none is
// tried again, the next one comes anyway.
type (
	trimArgs      struct{}
	purgeArgs     struct{}
	reconcileArgs struct{}
	reapArgs      struct{}
	censusArgs    struct{}
)

func (trimArgs) Kind() string      { return "trim" }
func (purgeArgs) Kind() string     { return "purge_tokens" }
func (reconcileArgs) Kind() string { return "reconcile_lanes" }
func (reapArgs) Kind() string      { return "reap_replicas" }
func (censusArgs) Kind() string    { return "census" }

const (
	reapEvery      = 10 * time.Second
	trimEvery      = time.Minute
	purgeEvery     = time.Minute
	reconcileEvery = time.Minute
	censusEvery    = time.Minute

	trimBudget    = 20 * time.Second
	trimTimeout   = 55 * time.Second
	upkeepTimeout = 20 * time.Second
)

func periodic() []*river.PeriodicJob {
	job := func(every time.Duration, args river.JobArgs) *river.PeriodicJob {
		return river.NewPeriodicJob(river.PeriodicInterval(every), func() (river.JobArgs, *river.InsertOpts) {
			return args, &river.InsertOpts{MaxAttempts: 1}
		}, &river.PeriodicJobOpts{RunOnStart: true})
	}
	return []*river.PeriodicJob{
		job(reapEvery, reapArgs{}),
		job(trimEvery, trimArgs{}),
		job(purgeEvery, purgeArgs{}),
		job(reconcileEvery, reconcileArgs{}),
		job(censusEvery, censusArgs{}),
	}
}

// worker makes a River worker of a function.
type worker[T river.JobArgs] struct {
	river.WorkerDefaults[T]
	timeout time.Duration
	work    func(context.Context) error
	runs    *prometheus.CounterVec
}

func (w *worker[T]) Timeout(*river.Job[T]) time.Duration { return w.timeout }

func (w *worker[T]) Work(ctx context.Context, job *river.Job[T]) error {
	err := w.work(ctx)
	result := "ok"
	if err != nil {
		result = "failed"
	}
	w.runs.WithLabelValues(job.Kind, result).Inc()
	return err
}

func addUpkeep(workers *river.Workers, cfg Config) error {
	u := upkeep{cfg.Log, cfg.Tokens, cfg.Logger}
	runs := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "restante_upkeep_jobs_total", Help: "Runs of periodic jobs, by kind and result.",
	}, []string{"kind", "result"})
	cfg.Metrics.MustRegister(runs)
	for _, args := range []river.JobArgs{trimArgs{}, purgeArgs{}, reconcileArgs{}, reapArgs{}, censusArgs{}} {
		for _, result := range []string{"ok", "failed"} {
			runs.WithLabelValues(args.Kind(), result)
		}
	}
	return errors.Join(
		river.AddWorkerSafely(workers, &worker[trimArgs]{timeout: trimTimeout, work: u.trim, runs: runs}),
		river.AddWorkerSafely(workers, &worker[purgeArgs]{timeout: upkeepTimeout, work: u.purge, runs: runs}),
		river.AddWorkerSafely(workers, &worker[reconcileArgs]{timeout: upkeepTimeout, work: u.reconcile, runs: runs}),
		river.AddWorkerSafely(workers, &worker[reapArgs]{timeout: upkeepTimeout, work: u.reap, runs: runs}),
		river.AddWorkerSafely(workers, &worker[censusArgs]{timeout: upkeepTimeout, work: u.census, runs: runs}),
	)
}

type upkeep struct {
	log    Upkeep
	tokens Purger
	logger *slog.Logger
}

func (u upkeep) trim(ctx context.Context) error {
	done, err := u.log.Trim(ctx, trimBudget)
	if done.Expired > 0 {
		u.logger.Warn("messages expired before anybody confirmed them", "events", done.Expired)
	}
	if done.Skipped > 0 {
		u.logger.Info("trim left streams to its next walk: they were locked, or Postgres refused", "streams", done.Skipped)
	}
	if err != nil {
		return fmt.Errorf("trim: %w", err)
	}
	return nil
}

func (u upkeep) purge(ctx context.Context) error {
	if _, err := u.tokens.Purge(ctx); err != nil {
		return fmt.Errorf("purge tokens: %w", err)
	}
	return nil
}

func (u upkeep) reconcile(ctx context.Context) error {
	found, err := u.log.Reconcile(ctx, lostAfter)
	if found > 0 {
		u.logger.Warn("owed lanes had lost their delivery job and were given a new one", "lanes", found)
	}
	if err != nil {
		return fmt.Errorf("reconcile lanes: %w", err)
	}
	return nil
}

func (u upkeep) reap(ctx context.Context) error {
	replicas, jobs, err := u.log.Reap(ctx)
	if replicas > 0 || jobs > 0 {
		u.logger.Warn("replicas stopped without a goodbye; their sessions and jobs were freed", "replicas", replicas, "jobs", jobs)
	}
	if err != nil {
		return fmt.Errorf("reap replicas: %w", err)
	}
	return nil
}

func (u upkeep) census(ctx context.Context) error {
	if err := u.log.TakeCensus(ctx); err != nil {
		return fmt.Errorf("census: %w", err)
	}
	return nil
}
