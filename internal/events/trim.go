package events

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	trimStreams = 500  // streams looked at per step
	trimLocks   = 25   // streams locked, and trimmed, per step: their appends wait meanwhile
	trimEvents  = 2000 // delivered events deleted per stream and step
	trimTimeout = 30 * time.Second
)

// Trimmed counts what a Trim did.
type Trimmed struct {
	Expired int64 // events nobody confirmed in time, those that readers came upon included
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
	total := Trimmed{Expired: l.expired.Swap(0)}
	for deadline := time.Now().Add(budget); ; {
		step, err := l.trimStep(ctx, lockStreamsSQL)
		if lockTimeout(err) {
			step, err = l.trimStep(ctx, lockFreeSQL)
		}
		total.add(step)
		l.metrics.expired.Add(float64(step.Expired))
		l.metrics.trimmed.Add(float64(step.Deleted))
		if err != nil || step.Round || time.Now().After(deadline) {
			return total, err
		}
	}
}

const (
	// trimWalkSQL is the walk's own lock: while another trim walks there is nothing
	// to do here.
	trimWalkSQL = `SELECT trim_after FROM meta FOR UPDATE SKIP LOCKED`

	// trimChunkSQL takes the next streams in order, and says which have something
	// to do. One whose next event is gone has come to what expired behind events
	// that have been confirmed since: nobody else would ever move acked over it.
	trimChunkSQL = `
SELECT user_id,
	head > acked AND (
		NOT EXISTS (SELECT 1 FROM events e WHERE e.user_id = chunk.user_id AND e.seq = chunk.acked + 1)
		OR EXISTS (SELECT 1 FROM events e
			WHERE e.user_id = chunk.user_id AND e.seq > chunk.acked AND e.expires_at <= now()))
	OR acked > trimmed AND coalesce((SELECT e.seq <= chunk.acked AND e.created_at < now() - $3::interval FROM events e
		WHERE e.user_id = chunk.user_id AND e.seq > chunk.trimmed ORDER BY e.seq LIMIT 1), false)
FROM (SELECT user_id, head, acked, trimmed FROM streams WHERE user_id > $1 ORDER BY user_id LIMIT $2) chunk
ORDER BY user_id`

	// lockFreeSQL leaves out the streams that are locked at the moment: a later walk
	// comes to them.
	lockFreeSQL = `SELECT user_id FROM streams WHERE user_id = ANY($1) ORDER BY user_id FOR NO KEY UPDATE SKIP LOCKED`

	// retireSQL deletes delivered events past the retention, and says whose.
	retireSQL = `
WITH gone AS (
	DELETE FROM events e USING streams s
	WHERE s.user_id = ANY($1) AND e.user_id = s.user_id AND e.seq > s.trimmed AND e.created_at < now() - $2::interval
		AND e.seq <= least(s.acked, $3 - 1 + (SELECT min(f.seq) FROM events f WHERE f.user_id = s.user_id AND f.seq > s.trimmed))
	RETURNING e.user_id)
SELECT user_id, count(*) FROM gone GROUP BY user_id`

	// trimmedSQL moves trimmed up to the first event that is left, where delivered
	// ones were deleted: what is gone behind trimmed has expired, and Status says so
	// until what was posted next is past the retention.
	trimmedSQL = `
UPDATE streams s SET trimmed = p.trimmed
FROM (SELECT user_id, least(acked, coalesce((SELECT min(e.seq) - 1 FROM events e
		WHERE e.user_id = streams.user_id AND e.seq > streams.trimmed), acked)) AS trimmed
	FROM streams WHERE user_id = ANY($1)) p
WHERE s.user_id = p.user_id AND p.trimmed > s.trimmed`

	// trimMoreSQL finds the first stream in which delivered events were left behind
	// because there were too many for one step. Pending ones that expire meanwhile
	// do not count: they could keep the walk at one stream for ever.
	trimMoreSQL = `
SELECT coalesce(min(user_id), '') FROM streams s
WHERE user_id = ANY($1) AND acked > trimmed AND (SELECT e.seq <= s.acked AND e.created_at < now() - $2::interval
	FROM events e WHERE e.user_id = s.user_id AND e.seq > s.trimmed ORDER BY e.seq LIMIT 1)`
)

// dueStream is a stream with something to trim, and the one before it.
type dueStream struct{ user, before string }

func (l *Log) trimStep(ctx context.Context, lockSQL string) (step Trimmed, err error) {
	ctx, cancel := context.WithTimeout(ctx, trimTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, l.cfg.Relaxed, func(tx pgx.Tx) error {
		step = Trimmed{}
		var from string
		switch err := tx.QueryRow(ctx, trimWalkSQL).Scan(&from); {
		case errors.Is(err, pgx.ErrNoRows):
			step.Round = true
			return nil
		case err != nil:
			return err
		}
		due, next, err := l.trimChunk(ctx, tx, from)
		if err != nil {
			return err
		}
		step.Round = next == ""
		if len(due) > 0 {
			more, err := l.trimStreams(ctx, tx, lockSQL, due, &step)
			if err != nil {
				return err
			}
			if i := slices.IndexFunc(due, func(d dueStream) bool { return d.user == more }); i >= 0 {
				next, step.Round = due[i].before, false
			}
		}
		_, err = tx.Exec(ctx, `UPDATE meta SET trim_after = $1`, next)
		return err
	})
	if err != nil {
		return Trimmed{}, unavailable("trim", err)
	}
	return step, nil
}

// trimChunk returns the next streams that have something to trim, and where the
// walk goes on; "" when this was the end of it.
func (l *Log) trimChunk(ctx context.Context, tx pgx.Tx, from string) (due []dueStream, next string, err error) {
	rows, err := tx.Query(ctx, trimChunkSQL, from, trimStreams, l.cfg.Retention)
	if err != nil {
		return nil, "", err
	}
	var user string
	var isDue bool
	seen, before, full := 0, from, ""
	_, err = pgx.ForEachRow(rows, []any{&user, &isDue}, func() error {
		seen++
		if isDue && len(due) < trimLocks {
			due = append(due, dueStream{user, before})
			if len(due) == trimLocks {
				full = user
			}
		}
		before = user
		return nil
	})
	switch {
	case full != "":
		next = full
	case seen == trimStreams:
		next = user
	}
	return due, next, err
}

// trimStreams trims streams that are due. It returns the first of them that has
// more to delete than one step may, or "".
func (l *Log) trimStreams(ctx context.Context, tx pgx.Tx, lockSQL string, due []dueStream, step *Trimmed) (more string, err error) {
	users := make([]string, len(due))
	for i, d := range due {
		users[i] = d.user
	}
	// While it waits for one stream it keeps the others that it has locked already.
	if _, err := tx.Exec(ctx, patienceSQL); err != nil {
		return "", err
	}
	rows, err := tx.Query(ctx, lockSQL, users)
	if err != nil {
		return "", err
	}
	if users, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		return "", err
	}
	b := &pgx.Batch{}
	b.Queue(durablySQL) // what is announced as gone must not come back
	b.Queue(expireSQL, users)
	b.Queue(passSQL, users)
	b.Queue(retireSQL, users, l.cfg.Retention, trimEvents)
	results := tx.SendBatch(ctx, b)
	defer results.Close()
	if err := execAll(results, 1); err != nil {
		return "", err
	}
	expired, err := results.Exec()
	if err != nil {
		return "", err
	}
	if err := execAll(results, 1); err != nil {
		return "", err
	}
	retired, deleted, err := readRetired(results)
	if err == nil {
		err = results.Close()
	}
	step.Expired, step.Deleted = expired.RowsAffected(), deleted
	if err != nil || len(retired) == 0 {
		return "", err
	}
	if _, err := tx.Exec(ctx, trimmedSQL, retired); err != nil {
		return "", err
	}
	err = tx.QueryRow(ctx, trimMoreSQL, retired, l.cfg.Retention).Scan(&more)
	return more, err
}

func readRetired(results pgx.BatchResults) (users []string, events int64, err error) {
	rows, err := results.Query()
	if err != nil {
		return nil, 0, err
	}
	var user string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&user, &n}, func() error {
		users = append(users, user)
		events += n
		return nil
	})
	return users, events, err
}
