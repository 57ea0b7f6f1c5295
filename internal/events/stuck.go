package events

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// stuckFor is how long messages for a stream that somebody else held on to are
	// refused before it is tried again. Each try costs all publishers of this replica
	// a lock timeout.
	stuckFor = 5 * time.Second

	// A stream under traffic is locked often, but not at every look.
	stuckLooks     = 5
	stuckLookEvery = 20 * time.Millisecond
)

// stuck remembers the streams that could not be locked in time. It belongs to the
// commit loop.
type stuck map[string]time.Time // by user; when to try again

// noteStuck takes down whose streams kept a batch waiting until the lock timeout.
// The error does not say. A batch of one user does; of several, it is those whose
// streams are locked still, look after look. (A stream that somebody is just
// creating cannot be seen: its batches are tried one by one until its user is.)
func (a *appender) noteStuck(ctx context.Context, batch []*appendRequest, err error) {
	if !lockTimeout(err) {
		return
	}
	suspects := usersOf(batch)
	if len(suspects) > 1 {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		defer cancel()
		for look := range stuckLooks {
			if look > 0 {
				time.Sleep(stuckLookEvery)
			}
			if suspects, err = a.store.locked(ctx, suspects); err != nil || len(suspects) == 0 {
				return
			}
		}
	}
	until := time.Now().Add(stuckFor)
	for _, user := range suspects {
		a.stuck[user] = until
	}
}

func usersOf(batch []*appendRequest) (users []string) {
	for _, r := range batch {
		for i := range r.msgs {
			users = append(users, r.msgs[i].UserID)
		}
	}
	slices.Sort(users)
	return slices.Compact(users)
}

// lockedSQL waits for nobody, and lets go of what it has locked at its end.
const lockedSQL = `
WITH free AS MATERIALIZED (SELECT user_id FROM streams WHERE user_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
SELECT user_id FROM streams WHERE user_id = ANY($1) AND user_id NOT IN (SELECT user_id FROM free)`

// locked returns those of the users whose streams somebody has locked.
func (s *appendStore) locked(ctx context.Context, users []string) ([]string, error) {
	rows, err := s.pool.Query(ctx, lockedSQL, users)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// holds reports whether a request would wait for a stream that is stuck.
func (s stuck) holds(r *appendRequest, now time.Time) bool {
	if len(s) == 0 {
		return false
	}
	for i := range r.msgs {
		switch until, ok := s[r.msgs[i].UserID]; {
		case !ok:
		case now.Before(until):
			return true
		default:
			delete(s, r.msgs[i].UserID)
		}
	}
	return false
}
