package torture

import (
	"context"
	"sync"
	"time"
)

// tampers are the users whose delivery job was cancelled or deleted by hand.
// Nothing but the reconcile can know that, so until it has put a job back I2
// does not hold for them.
type tampers struct {
	mu      sync.Mutex           // guards all below
	marked  map[string]int64     // user: the job
	cleared map[string]time.Time // user: when the mark was taken away
}

func newTampers() tampers {
	return tampers{marked: map[string]int64{}, cleared: map[string]time.Time{}}
}

// mark reports whether the user was free for tampering. It is called before the
// job is touched.
func (t *tampers) mark(user string, job int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.marked[user]; ok {
		return false
	}
	t.marked[user] = job
	return true
}

// excuses reports whether the user's job was missing by hand at some moment
// since.
func (t *tampers) excuses(user string, since time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.marked[user]
	return ok || t.cleared[user].After(since)
}

func (t *tampers) all() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make(map[string]int64, len(t.marked))
	for user, job := range t.marked {
		all[user] = job
	}
	return all
}

func (t *tampers) clear(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.marked, user)
	t.cleared[user] = time.Now()
}

// restoredSQL says when the debt is held by a job again: the tampered one has
// come to its end, and either none is owed or there is one that has its look at
// the lane before it. A running job may have had it, and be about to end; and so
// may one that was reaped from a living replica, which still ends it from memory:
// only a job that has never run is sure to look.
const restoredSQL = `
SELECT NOT EXISTS (SELECT 1 FROM river_job WHERE id = $2 AND finalized_at IS NULL)
	AND (lane <> 1 OR EXISTS (
		SELECT 1 FROM river_job WHERE kind = 'deliver' AND args->>'user_id' = $1
			AND state IN ('available', 'pending', 'retryable', 'scheduled') AND attempted_at IS NULL))
FROM streams WHERE user_id = $1`

// keepUp runs upkeep until the function it returns is called.
func (w *world) keepUp(longest time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { w.upkeep(ctx, longest) })
	stop = func() {
		cancel()
		running.Wait()
	}
	w.t.Cleanup(stop)
	return stop
}

// upkeep does what River's leader does periodically, at the pace of a test: the
// leader dies often here, and its successor waits for its lease.
func (w *world) upkeep(ctx context.Context, longest time.Duration) {
	every(ctx, 500*time.Millisecond, func() {
		w.mu.Lock()
		log := w.alive[0].Log
		w.mu.Unlock()
		marked := w.tampers.all()
		if _, freed, err := log.Reap(ctx); err == nil {
			w.count("orphaned jobs freed", int(freed))
		}
		if found, err := log.Reconcile(ctx, longest); err == nil {
			w.count("lost jobs put back", int(found))
		}
		if done, err := log.Trim(ctx, 200*time.Millisecond); err == nil {
			w.count("expired", int(done.Expired))
		}
		for user, job := range marked {
			var restored bool
			if err := w.pool.QueryRow(ctx, restoredSQL, user, job).Scan(&restored); err == nil && restored {
				w.tampers.clear(user)
			}
		}
	})
}
