package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/riverqueue/river"

	"restante/internal/events"
)

// Lanes is what a delivery job needs of the log.
type Lanes interface {
	// Settle turns an owed lane to idle or parked if it can, and says what it is.
	Settle(ctx context.Context, userID string) (events.Debt, error)
	// StillOwed says, much cheaper, that the lane should stay owed.
	StillOwed(ctx context.Context, userID string) (events.Debt, bool, error)
}

// Deliver owes a user the delivery of pending events.
type Deliver struct {
	UserID string `json:"user_id"`
}

// Kind names the job in River's table.
func (Deliver) Kind() string { return events.JobKind }

// A job that cannot end yet looks again after 1, 2, 4, then every 5 s: a longer
// snooze would wait for River's leader as well.
const snoozeMax = 5 * time.Second

type deliverWorker struct {
	river.WorkerDefaults[Deliver]
	lanes    Lanes
	wake     func(userID string)
	delay    time.Duration
	outcomes *prometheus.CounterVec
}

func newDeliverWorker(cfg Config) *deliverWorker {
	w := &deliverWorker{
		lanes: cfg.Lanes, wake: cfg.Wake, delay: cfg.DeliverDelay,
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "restante_delivery_jobs_total",
			Help: "Runs of delivery jobs by outcome: idle (all delivered), parked (nobody connected), woken (sessions told, looks again), early (left to the wake, looks again), locked (somebody else has the user's stream locked, looks again), busy (all delivered, more to come, looks again), duplicate, error.",
		}, []string{"outcome"}),
	}
	cfg.Metrics.MustRegister(w.outcomes)
	for _, outcome := range []string{"idle", "parked", "woken", "early", "locked", "busy", "duplicate", "error"} {
		w.outcomes.WithLabelValues(outcome)
	}
	return w
}

// Work settles the user's lane, or wakes the user's sessions and looks again.
func (w *deliverWorker) Work(ctx context.Context, job *river.Job[Deliver]) error {
	snoozes := snoozesOf(job.Metadata)
	debt, err := w.look(ctx, job.Args.UserID)
	switch {
	case err != nil:
		w.outcomes.WithLabelValues("error").Inc()
		return fmt.Errorf("deliver: %w", err)
	case debt.Locked:
		w.outcomes.WithLabelValues("locked").Inc()
		return river.JobSnooze(time.Second)
	case debt.Duplicate:
		w.outcomes.WithLabelValues("duplicate").Inc()
		return nil
	case debt.Lane == events.Idle:
		w.outcomes.WithLabelValues("idle").Inc()
		return nil
	case debt.Lane == events.Parked:
		w.outcomes.WithLabelValues("parked").Inc()
		return nil
	case debt.Busy:
		w.outcomes.WithLabelValues("busy").Inc()
		// Its wakes deliver, so it does not matter that River's leader is late for this
		// look. A user under traffic costs one in all that time, instead of a job a delay.
		return river.JobSnooze(events.BusyDelays * w.delay)
	}
	if young := w.delay - debt.PendingFor; debt.PendingFor > 0 && young > 0 {
		// Under traffic some message is always on its way: its wake, not this job,
		// delivers it.
		w.outcomes.WithLabelValues("early").Inc()
		return river.JobSnooze(min(young, snoozeMax))
	}
	w.wake(job.Args.UserID)
	w.outcomes.WithLabelValues("woken").Inc()
	// The job waits for its wake to show, the longer the more often it has waited.
	return river.JobSnooze(min(time.Second<<min(snoozes, 10), snoozeMax))
}

// look settles the user's lane if it can. Mostly it cannot while its user is under
// traffic, or has just come back: while 5,000 clients came back from a dead replica,
// vain attempts to settle were a quarter of what Postgres did.
func (w *deliverWorker) look(ctx context.Context, userID string) (events.Debt, error) {
	if debt, owed, err := w.lanes.StillOwed(ctx, userID); err != nil || owed {
		return debt, err
	}
	return w.lanes.Settle(ctx, userID)
}

// snoozesOf is how often River has snoozed a job.
func snoozesOf(metadata []byte) int {
	var counted struct {
		Snoozes int `json:"snoozes"`
	}
	if json.Unmarshal(metadata, &counted) != nil {
		return math.MaxInt
	}
	return counted.Snoozes
}
