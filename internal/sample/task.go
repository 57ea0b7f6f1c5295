package sample

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"time"
)

// task is one piece of pretended work. It does not change after its creation.
type task struct {
	id          string // also the idempotency key of its result
	userID      string
	message     json.RawMessage // the result, a JSON string
	wait        time.Duration
	due         time.Time
	traceparent string // of the request that started it, or ""
}

func newTask(userID string, message json.RawMessage, wait time.Duration, traceparent string) *task {
	return &task{
		id: rand.Text(), userID: userID, message: message,
		wait: wait, due: time.Now().Add(wait), traceparent: traceparent,
	}
}

// work is the life of a task: wait, then post. It returns when the result was
// accepted or the task is lost; either way exactly one log line says so.
func (a *App) work(ctx context.Context, t *task) {
	log := a.log.With("task_id", t.id, "user_id", t.userID)
	log.Info("task started", "wait_seconds", t.wait.Seconds(), "due", t.due.UTC().Format(time.RFC3339))
	if err := t.pretend(ctx, log); err != nil {
		log.Error("task lost", "due", t.due.UTC().Format(time.RFC3339), "err", err)
		return
	}
	receipt, err := a.gateway.post(ctx, t, log)
	if err != nil {
		log.Error("task lost", "due", t.due.UTC().Format(time.RFC3339), "err", err)
		return
	}
	log.Info("task done, the gateway has the result",
		"seq", receipt.Seq, "attempts", receipt.attempts, "repeated", receipt.Repeated)
}

// pretend waits until the task is due and tells the log how far it is.
func (t *task) pretend(ctx context.Context, log *slog.Logger) error {
	ticks := time.NewTicker(progressEvery(t.wait))
	defer ticks.Stop()
	due := time.NewTimer(time.Until(t.due))
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-due.C:
			return nil
		case <-ticks.C:
			left := time.Until(t.due)
			log.Info("task in progress",
				"percent", int(100*(t.wait-left)/t.wait), "left_seconds", int(left.Round(time.Second).Seconds()))
		}
	}
}

// progressEvery is about every tenth of the wait, but neither more often than
// each second nor less often than every 30.
func progressEvery(wait time.Duration) time.Duration {
	return min(max(wait/10, time.Second), 30*time.Second)
}
