package events

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
)

const (
	trimLook    = 50_000         // pending events of an unfinished stream that a visit looks through: 15 ms
	trimStepMin = 4 * trimEvents // seqs of expired events from which on they are stepped over, not deleted at once
)

const (
	// retireSQL deletes delivered events past the retention, among the $4 seqs from the
	// first event on, and moves trimmed up to the first that is left of them. It leaves
	// streams out that are locked, and those with expired events to delete: they must
	// not count as delivered. What is gone behind trimmed has expired, and Status says so
	// until what was posted next is past the retention.
	retireSQL = `
WITH s AS MATERIALIZED (
	SELECT s.user_id, f.seq AS first, least(s.acked, f.seq + $4::bigint - 1) AS last
	FROM streams s CROSS JOIN LATERAL (
		SELECT seq FROM events e WHERE e.user_id = s.user_id AND e.seq > s.trimmed ORDER BY e.seq LIMIT 1) f
	WHERE s.user_id = ANY($2) AND s.acked > s.trimmed
		AND NOT EXISTS (SELECT 1 FROM expired_ranges x WHERE x.user_id = s.user_id)
	ORDER BY s.user_id FOR NO KEY UPDATE OF s SKIP LOCKED),
gone AS (
	DELETE FROM events e USING s
	WHERE e.user_id = s.user_id AND e.seq BETWEEN s.first AND s.last AND e.created_at < now() - $3::interval
	` + returnKeySQL + `),
` + keepKeySQL + `,
moved AS (
	UPDATE streams SET trimmed = coalesce((SELECT min(e.seq) - 1 FROM events e
			WHERE e.user_id = s.user_id AND e.seq BETWEEN s.first AND s.last AND e.created_at >= now() - $3::interval), s.last)
	FROM s WHERE streams.user_id = s.user_id AND EXISTS (SELECT 1 FROM gone WHERE gone.user_id = s.user_id))
SELECT count(*) FROM gone`

	// shrinkSQL deletes the last $3 events of the first range of expired ones. Where
	// they begin and end are subqueries, so that no plan can look at all events.
	shrinkSQL = `
WITH x AS MATERIALIZED (
	SELECT from_seq, to_seq FROM expired_ranges WHERE user_id = $2 ORDER BY from_seq LIMIT 1 FOR UPDATE SKIP LOCKED),
cut AS MATERIALIZED (
	SELECT x.from_seq, x.to_seq, greatest(x.from_seq, (SELECT e.seq FROM events e
		WHERE e.user_id = $2 AND e.seq BETWEEN x.from_seq AND x.to_seq ORDER BY e.seq DESC OFFSET $3 - 1 LIMIT 1)) AS at
	FROM x),
gone AS (
	DELETE FROM events e WHERE e.user_id = $2 AND e.seq >= (SELECT at FROM cut) AND e.seq <= (SELECT to_seq FROM cut)
	` + returnKeySQL + `),
` + keepKeySQL + `,
shrunk AS (
	UPDATE expired_ranges SET to_seq = cut.at - 1 FROM cut
	WHERE user_id = $2 AND expired_ranges.from_seq = cut.from_seq AND cut.at > cut.from_seq),
ended AS (
	DELETE FROM expired_ranges USING cut WHERE user_id = $2 AND expired_ranges.from_seq = cut.from_seq AND cut.at = cut.from_seq)
SELECT (SELECT count(*) FROM gone), EXISTS (SELECT 1 FROM x)`

	// forgetBlocksSQL deletes the notes on blocks that nothing is pending in.
	forgetBlocksSQL = `
DELETE FROM event_blocks WHERE ctid = ANY(ARRAY(
	SELECT b.ctid FROM streams s JOIN event_blocks b ON b.user_id = s.user_id AND b.through <= s.acked
	WHERE s.user_id = ANY($1) LIMIT $2))`

	// trimMoreSQL finds the streams that are not done: with ranges, with pending events
	// beyond the $2 seqs that were looked through, or with delivered ones past the
	// retention.
	trimMoreSQL = `
SELECT user_id FROM streams s
WHERE user_id = ANY($1) AND (head > acked + $2::bigint
	OR EXISTS (SELECT 1 FROM expired_ranges x WHERE x.user_id = s.user_id)
	OR acked > trimmed AND (SELECT e.seq <= s.acked AND e.created_at < now() - $3::interval FROM events e
		WHERE e.user_id = s.user_id AND e.seq > s.trimmed ORDER BY e.seq LIMIT 1))`

	// nextExpiredSQL finds the next pending event whose time is up, among $3 seqs after
	// position $2, or after acked if that is further.
	nextExpiredSQL = `
SELECT s.head, greatest(s.acked, $2::bigint), (SELECT e.seq FROM events e
	WHERE e.user_id = s.user_id AND e.seq > greatest(s.acked, $2::bigint) AND e.seq <= greatest(s.acked, $2::bigint) + $3::bigint
		AND e.expires_at <= now() ORDER BY e.seq LIMIT 1)
FROM streams s WHERE s.user_id = $1`
)

// together trims a bounded number of events of each stream, at most trimEvents of
// all, and notes which have more. It keeps the streams locked for one round trip.
func (t *trim) together(ctx context.Context, users []string) error {
	ctx, cancel := context.WithTimeout(ctx, trimTimeout)
	defer cancel()
	seqs := int64(trimEvents / len(users))
	if err := t.expire(ctx, users, 0, seqs); err != nil {
		return err
	}
	if err := t.retire(ctx, users, seqs); err != nil {
		return err
	}
	rows, err := t.log.cfg.Relaxed.Query(ctx, trimMoreSQL, users, seqs, t.log.cfg.Retention)
	if err != nil {
		return err
	}
	more, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, user := range more {
		if len(t.unfinished) < trimUnfinished {
			t.unfinished = append(t.unfinished, unfinished{user: user})
		}
	}
	return err
}

// expire deletes pending events whose time is up, among the next seqs after a
// position. It waits for the disk: what is announced as gone must not come back.
func (t *trim) expire(ctx context.Context, users []string, after, seqs int64) error {
	b := &pgx.Batch{}
	b.Queue(durablySQL)
	b.Queue(patienceSQL)
	b.Queue(lockFreeSQL, users)
	b.Queue(expireSQL, t.log.cfg.KeyRetention, after, seqs)
	b.Queue(passSQL, passSeqs)
	locked, expired, err := sendExpiry(ctx, t.log.cfg.Relaxed, b)
	if err != nil {
		return err
	}
	t.done.Expired += expired
	t.done.Skipped += int64(len(users) - locked)
	return nil
}

// retire deletes delivered events past the retention.
func (t *trim) retire(ctx context.Context, users []string, seqs int64) error {
	b := &pgx.Batch{}
	b.Queue(patienceSQL)
	b.Queue(retireSQL, t.log.cfg.KeyRetention, users, t.log.cfg.Retention, seqs)
	b.Queue(forgetBlocksSQL, users, trimEvents)
	results := t.log.cfg.Relaxed.SendBatch(ctx, b)
	defer results.Close()
	if err := execAll(results, 1); err != nil {
		return err
	}
	var deleted int64
	if err := results.QueryRow().Scan(&deleted); err != nil {
		return err
	}
	if err := results.Close(); err != nil {
		return err
	}
	t.done.Deleted += deleted
	return nil
}

// visit trims a bounded number of events of an unfinished stream, and reports
// whether there may be more.
func (t *trim) visit(ctx context.Context, u *unfinished) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, trimTimeout)
	defer cancel()
	for _, do := range []func(context.Context, string) (bool, error){t.shrinkRange, t.pass} {
		if more, err := do(ctx, u.user); more || err != nil {
			return more, err
		}
	}
	deleted := t.done.Deleted
	if err := t.retire(ctx, []string{u.user}, trimEvents); err != nil {
		return false, err
	}
	pending, err := t.expireNext(ctx, u)
	return pending || t.done.Deleted > deleted, err
}

// shrinkRange deletes events of a range that has expired, and reports whether there
// was one. It needs no lock of the stream: nobody else touches them.
func (t *trim) shrinkRange(ctx context.Context, user string) (found bool, err error) {
	b := &pgx.Batch{}
	b.Queue(patienceSQL)
	b.Queue(shrinkSQL, t.log.cfg.KeyRetention, user, trimEvents)
	results := t.log.cfg.Relaxed.SendBatch(ctx, b)
	defer results.Close()
	if err := execAll(results, 1); err != nil {
		return false, err
	}
	var expired int64
	if err := results.QueryRow().Scan(&expired, &found); err != nil {
		return false, err
	}
	if err := results.Close(); err != nil {
		return false, err
	}
	t.done.Expired += expired
	return found, nil
}

// pass moves acked over what is gone, and reports whether it could.
func (t *trim) pass(ctx context.Context, user string) (moved bool, err error) {
	b := &pgx.Batch{}
	b.Queue(patienceSQL)
	b.Queue(lockFreeSQL, []string{user})
	b.Queue(passSQL, passSeqs)
	results := t.log.cfg.Relaxed.SendBatch(ctx, b)
	defer results.Close()
	if err := execAll(results, 2); err != nil {
		return false, err
	}
	tag, err := results.Exec()
	if err == nil {
		err = results.Close()
	}
	return tag.RowsAffected() > 0, err
}

// expireNext expires the next pending events whose time is up, and reports whether
// there may be more: few of them at once, many as a range.
func (t *trim) expireNext(ctx context.Context, u *unfinished) (more bool, err error) {
	var head, from int64
	var expired *int64
	switch err := t.log.cfg.Relaxed.QueryRow(ctx, nextExpiredSQL, u.user, u.at, trimLook).Scan(&head, &from, &expired); {
	case errors.Is(err, pgx.ErrNoRows): // the stream was erased
		return false, nil
	case err != nil:
		return false, err
	case expired == nil:
		u.at = from + trimLook
		return u.at < head, nil
	}
	through, err := nextGood(ctx, t.log.cfg.Relaxed, u.user, *expired-1, head)
	if err != nil {
		return false, err
	}
	skipped := t.done.Skipped
	if through-*expired >= trimStepMin {
		var locked int
		locked, err = t.log.record(ctx, lockFreeSQL, u.user, *expired-1, through)
		t.done.Skipped += int64(1 - locked)
	} else {
		through = min(*expired-1+trimEvents, head)
		err = t.expire(ctx, []string{u.user}, *expired-1, trimEvents)
	}
	if err != nil || t.done.Skipped > skipped {
		return false, err
	}
	u.at = through
	return true, nil
}
