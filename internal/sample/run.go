package sample

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Why a task is refused, and why one that was accepted is lost.
var (
	errFull      = errors.New("too many tasks")
	errStopping  = errors.New("the application is stopping")
	errNotInTime = errors.New("the application stopped, the task was due after the grace period")
	errNotTaken  = errors.New("the application stopped before the gateway took the result")
)

// admission is a handler's question to Run: may this task start?
type admission struct {
	task   *task
	answer chan error // buffered: Run never waits for a handler that has gone
}

// Run accepts tasks and works on them until ctx is done, then lets those that
// are due within the grace period finish, gives up the others, and returns nil. It returns when no task is running any more. It must be called
// once.
func (a *App) Run(ctx context.Context) error {
	err := errors.New("sample application: Run was called twice")
	a.runOnce.Do(func() { err = nil; a.run(ctx) })
	return err
}

func (a *App) run(ctx context.Context) {
	// Tasks outlive ctx by the grace period, so they get a context of their own.
	work, stopWork := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopWork(nil)

	tasks := map[*task]context.CancelCauseFunc{}
	finished := make(chan *task)
	var wait sync.WaitGroup
	defer wait.Wait()

	for accepting := true; accepting; {
		select {
		case ask := <-a.admit:
			if len(tasks) >= a.cfg.MaxTasks {
				ask.answer <- errFull
				continue
			}
			t := ask.task
			taskCtx, cancel := context.WithCancelCause(work)
			tasks[t] = cancel
			wait.Go(func() {
				a.work(taskCtx, t)
				finished <- t
			})
			ask.answer <- nil
		case t := <-finished:
			tasks[t](nil)
			delete(tasks, t)
		case <-ctx.Done():
			accepting = false
		}
	}

	close(a.stopped)
	deadline := time.Now().Add(max(a.cfg.Grace, 0))
	total, late := len(tasks), 0
	for t, cancel := range tasks {
		if t.due.After(deadline) {
			late++
			cancel(errNotInTime)
		}
	}
	if total > 0 {
		a.log.Info("finishing tasks", "tasks", total-late, "lost", late, "grace_seconds", max(a.cfg.Grace, 0).Seconds())
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	for len(tasks) > 0 {
		select {
		case t := <-finished:
			tasks[t](nil)
			delete(tasks, t)
		case <-timer.C:
			stopWork(errNotTaken)
		}
	}
}

// start asks Run to take t. The error is errFull, errStopping or ctx's.
func (a *App) start(ctx context.Context, t *task) error {
	// Run is normally at its select; a handler waits only while the process is
	// starting.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ask := admission{task: t, answer: make(chan error, 1)}
	select {
	case a.admit <- ask:
		return <-ask.answer
	case <-a.stopped:
		return errStopping
	case <-ctx.Done():
		return ctx.Err()
	}
}
