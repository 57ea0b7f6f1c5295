package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"restante/internal/events"
)

const (
	deliverWorkers = 50
	upkeepWorkers  = 5
	upkeepPoll     = 2 * time.Second

	// deliverTimeout bounds one look at a lane; a job that is still running after
	// lostAfter has lost its worker, and the reconcile replaces it.
	deliverTimeout = 5 * time.Second
	lostAfter      = 3 * deliverTimeout

	retryAfter = time.Second
	softStop   = 2 * time.Second
	hardStop   = 3 * time.Second
)

// Config is what the jobs need; every field is required.
type Config struct {
	// Pool is River's, of database.JobsConfig: with synchronous_commit=off, for losing
	// a job's last state change only runs it again.
	Pool      *pgxpool.Pool
	ReplicaID string // names the worker of a running job, so that the reaper finds it

	Lanes  Lanes
	Log    Upkeep
	Tokens Purger
	// Wake reaches the sessions of a user on every replica. It must not block.
	Wake func(userID string)

	PollEvery    time.Duration // how often River looks for due jobs
	DeliverDelay time.Duration // an event younger than this is left to its wake

	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Jobs is this replica's part in working River's queues.
type Jobs struct {
	client *river.Client[pgx.Tx]
	logger *slog.Logger
}

// New makes Jobs; Run works them.
func New(cfg Config) (*Jobs, error) {
	workers := river.NewWorkers()
	if err := errors.Join(
		river.AddWorkerSafely(workers, newDeliverWorker(cfg)),
		addUpkeep(workers, cfg),
	); err != nil {
		return nil, fmt.Errorf("register workers: %w", err)
	}
	client, err := river.NewClient(riverpgxv5.New(cfg.Pool), &river.Config{
		ID: cfg.ReplicaID,
		Queues: map[string]river.QueueConfig{
			events.JobQueue: {MaxWorkers: deliverWorkers},
			// No periodic job is due sooner than every 10 s: fetching for them as often
			// as for deliveries was a quarter of what an idle replica cost Postgres.
			river.QueueDefault: {MaxWorkers: upkeepWorkers, FetchPollInterval: max(cfg.PollEvery, upkeepPoll)},
		},
		Workers:           workers,
		PeriodicJobs:      periodic(),
		FetchPollInterval: cfg.PollEvery,
		FetchCooldown:     min(cfg.PollEvery, 100*time.Millisecond),
		// Delivery jobs are inserted by plain SQL without a notification, and become
		// due without one: River's own LISTEN connection would have little to say.
		PollOnly:                    true,
		JobTimeout:                  deliverTimeout,
		RescueStuckJobsAfter:        2 * trimTimeout, // never sooner than the longest job
		RetryPolicy:                 retryPolicy{},
		CompletedJobRetentionPeriod: time.Minute,
		CancelledJobRetentionPeriod: time.Minute,
		DiscardedJobRetentionPeriod: 24 * time.Hour,
		ReindexerIndexNames:         indexes,
		SoftStopTimeout:             softStop,
		Logger:                      cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("make river client: %w", err)
	}
	return &Jobs{client: client, logger: cfg.Logger}, nil
}

// indexes are those of river_job that are left to rebuild: the migration drops
// the two GIN indexes.
var indexes = []string{
	"river_job_kind", "river_job_pkey", "river_job_prioritized_fetching_index",
	"river_job_state_and_finalized_at_index", "river_job_unique_idx",
}

// Run works the queues until ctx ends; then it lets running jobs finish, cancels
// those that do not, and returns. While Postgres is away it waits for it.
func (j *Jobs) Run(ctx context.Context) error {
	if !j.start(ctx) {
		return nil
	}
	<-ctx.Done()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), softStop+hardStop)
	defer cancel()
	if err := j.client.Stop(stop); err != nil {
		return fmt.Errorf("stop river: %w", err)
	}
	return nil
}

// start starts River, which gives up at the first connection that breaks: that
// must not end the replica, whose sessions and appends outlive it too. It reports
// whether River runs.
func (j *Jobs) start(ctx context.Context) bool {
	for {
		err := j.client.Start(context.WithoutCancel(ctx))
		if err == nil {
			return true
		}
		j.logger.Warn("River could not start; it is repeated", "err", err)
		timer := time.NewTimer(retryAfter)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// retryPolicy: River's own waits attempt⁴ seconds, and a delivery job may count
// thousands of attempts. Up to 5 s the job stays available and needs no leader.
type retryPolicy struct{}

func (retryPolicy) NextRetry(*rivertype.JobRow) time.Time { return time.Now().Add(retryAfter) }
