package events

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	trimStreams = 500  // streams looked at per step
	trimEvents  = 2000 // events deleted per stream and step
	trimTimeout = 30 * time.Second
)

// Trimmed counts what a Trim did.
type Trimmed struct {
	Expired int64 // events nobody confirmed in time
	Deleted int64 // delivered events past the retention
	Round   bool  // the walk has come to the end of the streams
}

func (t *Trimmed) add(step Trimmed) {
	t.Expired += step.Expired
	t.Deleted += step.Deleted
	t.Round = step.Round
}

// Trim deletes what nobody can ask for any more: events that expired before
// anybody confirmed them, and confirmed ones past the retention. It walks through
// the streams in small transactions, from where the last Trim stopped, until it
// has been round once or budget is over.
func (l *Log) Trim(ctx context.Context, budget time.Duration) (Trimmed, error) {
	var total Trimmed
	for deadline := time.Now().Add(budget); ; {
		step, err := l.trimStep(ctx)
		total.add(step)
		l.metrics.expired.Add(float64(step.Expired))
		l.metrics.trimmed.Add(float64(step.Deleted))
		if err != nil || step.Round || time.Now().After(deadline) {
			return total, err
		}
	}
}

const (
	// trimChunkSQL takes the next streams in order, and says which have something
	// to do. While another trim walks it finds none.
	trimChunkSQL = `
WITH walk AS (SELECT trim_after FROM meta FOR UPDATE SKIP LOCKED),
chunk AS (
	SELECT s.user_id, s.head, s.acked, s.trimmed FROM streams s, walk
	WHERE s.user_id > walk.trim_after ORDER BY s.user_id LIMIT $1)
SELECT user_id,
	head > acked AND EXISTS (SELECT 1 FROM events e
		WHERE e.user_id = chunk.user_id AND e.seq > chunk.acked AND e.expires_at <= now())
	OR acked > trimmed AND coalesce((SELECT e.created_at < now() - $2::interval FROM events e
		WHERE e.user_id = chunk.user_id AND e.seq > chunk.trimmed ORDER BY e.seq LIMIT 1), true)
FROM chunk ORDER BY user_id`

	trimLockSQL = `SELECT 1 FROM streams WHERE user_id = ANY($1) ORDER BY user_id FOR NO KEY UPDATE`

	// expireSQL deletes pending events whose time is up.
	expireSQL = `
DELETE FROM events e USING streams s
WHERE s.user_id = ANY($1) AND e.user_id = s.user_id AND e.seq > s.acked AND e.expires_at <= now()`

	// passSQL moves acked over what has expired: up to the next pending event.
	passSQL = `
UPDATE streams s SET acked = p.acked
FROM (SELECT user_id, coalesce((SELECT min(e.seq) - 1 FROM events e
		WHERE e.user_id = streams.user_id AND e.seq > streams.acked), head) AS acked
	FROM streams WHERE user_id = ANY($1)) p
WHERE s.user_id = p.user_id AND p.acked > s.acked`

	retireSQL = `
DELETE FROM events e USING streams s
WHERE s.user_id = ANY($1) AND e.user_id = s.user_id AND e.seq > s.trimmed
	AND e.seq <= least(s.acked, s.trimmed + $3) AND e.created_at < now() - $2::interval`

	// trimmedSQL moves trimmed up to the first event that is left.
	trimmedSQL = `
UPDATE streams s SET trimmed = p.trimmed
FROM (SELECT user_id, least(acked, coalesce((SELECT min(e.seq) - 1 FROM events e
		WHERE e.user_id = streams.user_id AND e.seq > streams.trimmed), acked)) AS trimmed
	FROM streams WHERE user_id = ANY($1)) p
WHERE s.user_id = p.user_id AND p.trimmed > s.trimmed`
)

func (l *Log) trimStep(ctx context.Context) (step Trimmed, err error) {
	ctx, cancel := context.WithTimeout(ctx, trimTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, l.cfg.Relaxed, func(tx pgx.Tx) error {
		step = Trimmed{}
		users, last, seen, err := l.trimChunk(ctx, tx)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			b := &pgx.Batch{}
			b.Queue(trimLockSQL, users)
			b.Queue(expireSQL, users)
			b.Queue(passSQL, users)
			b.Queue(retireSQL, users, l.cfg.Retention, trimEvents)
			b.Queue(trimmedSQL, users)
			results := tx.SendBatch(ctx, b)
			counts := make([]int64, b.Len())
			for i := range counts {
				tag, err := results.Exec()
				if err != nil {
					results.Close()
					return err
				}
				counts[i] = tag.RowsAffected()
			}
			if err := results.Close(); err != nil {
				return err
			}
			step.Expired, step.Deleted = counts[1], counts[3]
		}
		switch {
		case step.Deleted >= trimEvents: // some stream may have more: look at this chunk again
			return nil
		case seen < trimStreams:
			last, step.Round = "", true
		}
		_, err = tx.Exec(ctx, `UPDATE meta SET trim_after = $1`, last)
		return err
	})
	return step, unavailable("trim", err)
}

// trimChunk returns the users of the next chunk that have something to trim, the
// last user of the chunk, and how many there were.
func (l *Log) trimChunk(ctx context.Context, tx pgx.Tx) (users []string, last string, seen int, err error) {
	rows, err := tx.Query(ctx, trimChunkSQL, trimStreams, l.cfg.Retention)
	if err != nil {
		return nil, "", 0, err
	}
	var due bool
	_, err = pgx.ForEachRow(rows, []any{&last, &due}, func() error {
		seen++
		if due {
			users = append(users, last)
		}
		return nil
	})
	return users, last, seen, err
}
