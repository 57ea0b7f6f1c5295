package events

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	trimStreams    = 500  // streams looked at per step of the walk
	trimLocks      = 25   // streams trimmed together
	trimEvents     = 2000 // events deleted per statement
	trimDue        = 1024 // seqs after acked that the walk looks at
	trimUnfinished = 1000 // streams that a Trim comes back to; the others wait for the next walk
	trimTimeout    = 5 * time.Second
)

// Trimmed counts what a Trim did.
type Trimmed struct {
	Expired int64 // events nobody confirmed in time, those that readers came upon included
	Deleted int64 // delivered events past the retention
	Skipped int64 // times that a stream was left to a later walk: it was locked, or Postgres refused
	Round   bool  // the walk has come to the end of the streams, and all of them are done
}

func (t *Trimmed) add(more Trimmed) {
	t.Expired += more.Expired
	t.Deleted += more.Deleted
	t.Skipped += more.Skipped
}

// Trim deletes what nobody can ask for any more: events that expired before anybody
// confirmed them, confirmed ones past the retention, and old idempotency keys. It
// walks through the streams, from where the last Trim stopped, until it has been
// round once and all is done, or budget is over.
//
// Each statement deletes a bounded number of events. A stream with more of them is
// visited again, in turn with the others and with the walk: one user's millions keep
// nobody else's from being trimmed. A stream that is locked, or that Postgres
// refuses to trim, is left to the next walk. An error is returned when the walk has
// ended, unless Postgres cannot be reached.
func (l *Log) Trim(ctx context.Context, budget time.Duration) (Trimmed, error) {
	total := Trimmed{Expired: l.expired.Swap(0)}
	t := &trim{log: l, deadline: time.Now().Add(budget)}
	for {
		err := t.step(ctx)
		total.add(t.done)
		l.metrics.expired.Add(float64(t.done.Expired))
		l.metrics.trimmed.Add(float64(t.done.Deleted))
		l.metrics.trimSkipped.Add(float64(t.done.Skipped))
		t.done = Trimmed{}
		if err != nil {
			return total, unavailable("trim", err)
		}
		total.Round = t.walked && len(t.unfinished) == 0
		if total.Round || t.over() {
			err := l.forgetKeys(ctx, t.deadline)
			return total, unavailable("trim", errors.Join(t.refused, err))
		}
	}
}

// trim is one Trim under way.
type trim struct {
	log        *Log
	deadline   time.Time
	walked     bool         // the walk has come to the end
	unfinished []unfinished // streams that have more to delete: the first has waited the longest
	done       Trimmed      // by the last step
	refused    error        // why Postgres refused to trim a stream, if it did
}

func (t *trim) over() bool { return time.Now().After(t.deadline) }

// unfinished is a stream and how far its pending events have been looked through.
type unfinished struct {
	user string
	at   int64
}

// step takes the walk a step further, and visits one unfinished stream.
func (t *trim) step(ctx context.Context) error {
	if !t.walked {
		due, err := t.walk(ctx)
		if err != nil {
			return err
		}
		if err := t.streams(ctx, due); err != nil {
			return err
		}
	}
	if len(t.unfinished) == 0 {
		return nil
	}
	u := t.unfinished[0]
	t.unfinished = t.unfinished[1:]
	more, err := t.visit(ctx, &u)
	if more && err == nil {
		t.unfinished = append(t.unfinished, u)
	}
	return t.leaveOut(err)
}

const (
	// trimWalkSQL is the walk's own lock: while another trim walks there is nothing
	// to do here.
	trimWalkSQL = `SELECT trim_after FROM meta FOR UPDATE SKIP LOCKED`

	// trimChunkSQL takes the next streams in order, and says which have something
	// to do. One whose next event is gone has come to what expired behind events
	// that have been confirmed since: nobody else would ever move acked over it. One
	// with many pending events has to be looked through.
	trimChunkSQL = `
SELECT user_id,
	head > acked AND (
		head > acked + $4::bigint
		OR NOT EXISTS (SELECT 1 FROM events e WHERE e.user_id = chunk.user_id AND e.seq = chunk.acked + 1)
		OR EXISTS (SELECT 1 FROM events e
			WHERE e.user_id = chunk.user_id AND e.seq > chunk.acked AND e.expires_at <= now()))
	OR acked > trimmed AND coalesce((SELECT e.seq <= chunk.acked AND e.created_at < now() - $3::interval FROM events e
		WHERE e.user_id = chunk.user_id AND e.seq > chunk.trimmed ORDER BY e.seq LIMIT 1), false)
	OR EXISTS (SELECT 1 FROM expired_ranges x WHERE x.user_id = chunk.user_id)
FROM (SELECT user_id, head, acked, trimmed FROM streams WHERE user_id > $1 ORDER BY user_id LIMIT $2) chunk
ORDER BY user_id`
)

// walk returns the next streams that have something to trim. Where it goes on is
// committed before they are trimmed: whatever becomes of them, the next step comes
// to others.
func (t *trim) walk(ctx context.Context) (due []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, trimTimeout)
	defer cancel()
	err = pgx.BeginFunc(ctx, t.log.cfg.Relaxed, func(tx pgx.Tx) error {
		var from string
		switch err := tx.QueryRow(ctx, trimWalkSQL).Scan(&from); {
		case errors.Is(err, pgx.ErrNoRows):
			t.walked = true
			return nil
		case err != nil:
			return err
		}
		var next string
		if due, next, err = t.chunk(ctx, tx, from); err != nil {
			return err
		}
		t.walked = next == ""
		_, err = tx.Exec(ctx, `UPDATE meta SET trim_after = $1`, next)
		return err
	})
	return due, err
}

// chunk returns the next streams that have something to trim, and where the walk
// goes on; "" when this was the end of it.
func (t *trim) chunk(ctx context.Context, tx pgx.Tx, from string) (due []string, next string, err error) {
	rows, err := tx.Query(ctx, trimChunkSQL, from, trimStreams, t.log.cfg.Retention, trimDue)
	if err != nil {
		return nil, "", err
	}
	var user string
	var isDue bool
	seen, full := 0, ""
	_, err = pgx.ForEachRow(rows, []any{&user, &isDue}, func() error {
		seen++
		if isDue && len(due) < trimLocks {
			due = append(due, user)
			if len(due) == trimLocks {
				full = user
			}
		}
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

// streams trims the streams that the walk has come to, all in one statement; if
// Postgres refuses, each in its own.
func (t *trim) streams(ctx context.Context, users []string) error {
	if len(users) == 0 {
		return nil
	}
	err := t.together(ctx, users)
	if _, isRefused := refused(err); !isRefused || len(users) == 1 {
		return t.leaveOut(err)
	}
	for i, user := range users {
		if i > 0 && t.over() {
			t.done.Skipped += int64(len(users) - i)
			break
		}
		if err := t.leaveOut(t.together(ctx, []string{user})); err != nil {
			return err
		}
	}
	return nil
}

// leaveOut notes a stream that Postgres refused to trim. Any other error it returns.
func (t *trim) leaveOut(err error) error {
	if _, ok := refused(err); !ok {
		return err
	}
	t.done.Skipped++
	if t.refused == nil && !lockTimeout(err) {
		t.refused = err
	}
	return nil
}
