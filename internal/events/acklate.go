package events

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	lateEvery    = 50 * time.Millisecond  // between two tries of all that is late
	lateAlone    = 100 * time.Millisecond // of being locked at every try; then the stream is waited for
	lateAtOnce   = 2                      // streams that are waited for at a time
	lateLastTime = time.Second            // for what is late when the replica stops
)

// lateAck is a position whose stream was locked when it was to be written.
type lateAck struct {
	seq   int64
	since time.Time // first found locked
	waits int       // how often it was waited for in vain
}

// postpone makes the positions of locked streams late.
func (a *acker) postpone(taken map[string]int64, locked []string) {
	if len(locked) == 0 {
		return
	}
	a.metrics.ackLocked.Add(float64(len(locked)))
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, user := range locked {
		a.late[user] = &lateAck{seq: max(taken[user], a.pending[user]), since: time.Now()}
		delete(a.pending, user)
	}
	signal(a.skipped)
}

// runLate writes what is late until ctx ends, and then tries for a second more.
func (a *acker) runLate(ctx context.Context) {
	pause := time.NewTimer(0)
	<-pause.C
	for {
		select {
		case <-a.skipped:
		case <-ctx.Done():
		}
		for a.writeLate(context.WithoutCancel(ctx)) && ctx.Err() == nil {
			pause.Reset(lateEvery)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
		if ctx.Err() == nil {
			continue
		}
		for end := time.Now().Add(lateLastTime); a.writeLate(context.WithoutCancel(ctx)) && time.Now().Before(end); {
			pause.Reset(ackEvery)
			<-pause.C
		}
		return
	}
}

// writeLate tries everything that is late once without waiting, and waits for a few
// of the streams alone. It reports whether anything is late still.
func (a *acker) writeLate(ctx context.Context) (left bool) {
	late := a.lateAcks()
	for chunk := range slices.Chunk(late, ackStreams) {
		users, seqs := make([]string, len(chunk)), make([]int64, len(chunk))
		for i, l := range chunk {
			users[i], seqs[i] = l.user, l.seq
		}
		locked, err := a.write(ctx, users, seqs)
		if err != nil {
			return true // the next round tries again
		}
		still := make(map[string]bool, len(locked))
		for _, user := range locked {
			still[user] = true
		}
		a.forgetLate(chunk, still)
	}
	// A stream under traffic is free for moments only, which a look every 50 ms may
	// never meet. Whoever waits for it is served in turn.
	late = slices.DeleteFunc(a.lateAcks(), func(l userAck) bool { return time.Since(l.since) < lateAlone })
	slices.SortFunc(late, func(x, y userAck) int {
		if x.waits != y.waits {
			return x.waits - y.waits
		}
		return x.since.Compare(y.since)
	})
	var g sync.WaitGroup
	for _, l := range late[:min(lateAtOnce, len(late))] {
		g.Go(func() {
			a.forgetLate([]userAck{l}, map[string]bool{l.user: a.writeAlone(ctx, l) != nil})
		})
	}
	g.Wait()
	return len(a.lateAcks()) > 0
}

// userAck is a lateAck and whose it is.
type userAck struct {
	user string
	lateAck
}

func (a *acker) lateAcks() []userAck {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]userAck, 0, len(a.late))
	for user, l := range a.late {
		all = append(all, userAck{user, *l})
	}
	return all
}

// forgetLate ends the lateness of those that were written, unless more has been
// confirmed meanwhile.
func (a *acker) forgetLate(tried []userAck, locked map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range tried {
		if locked[t.user] {
			continue
		}
		l := a.late[t.user]
		delete(a.late, t.user)
		if l.seq > t.seq {
			a.pending[t.user] = l.seq
			signal(a.wake)
		}
	}
}

// aloneSQL bounds how long a transaction that holds nothing waits for one stream.
const aloneSQL = `SELECT set_config('lock_timeout', '200ms', true)`

// writeAlone waits for one stream, with a transaction that holds no other.
func (a *acker) writeAlone(ctx context.Context, l userAck) error {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(aloneSQL)
	b.Queue(`UPDATE streams SET acked = greatest(acked, least($2, head)), confirmed = CASE WHEN $2 < acked THEN greatest(confirmed, $2) END
		WHERE user_id = $1 AND (acked < $2 OR confirmed < $2) AND `+guardSQL+`$3`+guardEndSQL, l.user, l.seq, a.history.guard())
	results := a.pool.SendBatch(ctx, b)
	defer results.Close()
	if err := execAll(results, 1); err != nil {
		return err
	}
	written, err := results.Exec()
	if err == nil {
		err = results.Close()
	}
	if err == nil {
		a.metrics.acked.Add(float64(written.RowsAffected()))
		return nil
	}
	a.history.meets(err)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.late[l.user].waits++
	return err
}
