package events

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	expiring       = 2           // readers that expire events at a time
	waiting        = 1           // readers that wait for a stream's lock at a time
	expirePatience = time.Second // how long a reader tries to lock a stream that somebody else keeps locked
	passSeqs       = 65536       // seqs that acked may move per statement, where no range is known
)

// errLocked: somebody else kept a stream locked.
var errLocked = errors.New("the stream is locked by somebody else")

const (
	// durablySQL makes a relaxed transaction wait for the disk.
	durablySQL = `SELECT set_config('synchronous_commit', 'on', true)`

	// patienceSQL bounds how long a stream is waited for, or kept locked if somebody has
	// locked one of its events, or if something makes deletes slow.
	patienceSQL = `SELECT set_config('lock_timeout', '200ms', true), set_config('statement_timeout', '2s', true)`

	// lockWaitSQL locks streams for the statements that follow in the same round trip,
	// which find them in lockedHereSQL. It returns how many they are. lockFreeSQL leaves
	// out those that somebody else has locked.
	lockWaitSQL = `
SELECT coalesce(cardinality(users), 0), set_config('restante.locked', users::text, true)
FROM (SELECT coalesce(array_agg(user_id), '{}') AS users FROM (
	SELECT user_id FROM streams WHERE user_id = ANY($1) ORDER BY user_id FOR NO KEY UPDATE) s) locked`

	lockFreeSQL = `
SELECT coalesce(cardinality(users), 0), set_config('restante.locked', users::text, true)
FROM (SELECT coalesce(array_agg(user_id), '{}') AS users FROM (
	SELECT user_id FROM streams WHERE user_id = ANY($1) ORDER BY user_id FOR NO KEY UPDATE SKIP LOCKED) s) locked`

	lockedHereSQL = `ANY(current_setting('restante.locked')::text[])`

	// expireSQL deletes pending events whose time is up, among the $3 seqs that follow
	// position $2, or acked if that is further.
	expireSQL = `
WITH gone AS (
	DELETE FROM events e USING streams s
	WHERE s.user_id = ` + lockedHereSQL + ` AND e.user_id = s.user_id AND e.seq > greatest(s.acked, $2::bigint)
		AND e.seq <= greatest(s.acked, $2::bigint) + $3::bigint AND e.expires_at <= now()
	` + returnKeySQL + `),
` + keepKeySQL + `
SELECT count(*) FROM gone`

	// passSQL moves acked over what has expired: over a range of such events, and over
	// $1 seqs at most that are gone. What clients have confirmed stays in confirmed.
	passSQL = `
UPDATE streams s SET acked = p.acked, confirmed = ` + confirmedSQL + `
FROM (SELECT user_id, coalesce((SELECT min(e.seq) - 1 FROM events e
		WHERE e.user_id = r.user_id AND e.seq > r.acked AND e.seq <= r.acked + $1::bigint),
		least(head, r.acked + $1::bigint)) AS acked
	FROM (SELECT user_id, head, greatest(acked, (SELECT max(x.to_seq) FROM expired_ranges x
			WHERE x.user_id = streams.user_id AND x.from_seq <= streams.acked + 1)) AS acked
		FROM streams WHERE user_id = ` + lockedHereSQL + `) r) p
WHERE s.user_id = p.user_id AND p.acked > s.acked`
)

// expire deletes and counts the pending events of a user whose time is up, among
// the next seqs after a position. It comes before a reader is given a page that
// leaves them out: what its client then confirms lies beyond them, and from acked
// alone they would look delivered. It waits for the disk, or a crash of Postgres
// could bring them back after that.
//
// Whatever Trim or another reader does at the same time, the stream's lock decides
// who expires an event, once.
func (l *Log) expire(ctx context.Context, userID string, after, seqs int64) error {
	return l.persist(ctx, userID, l.expiring, func(ctx context.Context, lockSQL string) error {
		b := &pgx.Batch{}
		b.Queue(durablySQL)
		b.Queue(patienceSQL)
		b.Queue(lockSQL, []string{userID})
		b.Queue(expireSQL, l.cfg.KeyRetention, after, seqs)
		b.Queue(passSQL, passSeqs)
		locked, expired, err := sendExpiry(ctx, l.cfg.Relaxed, b)
		if err == nil && locked == 0 {
			err = errLocked
		}
		if err != nil {
			return err
		}
		l.metrics.expired.Add(float64(expired))
		l.expired.Add(expired)
		return nil
	})
}

// sendExpiry sends durablySQL, patienceSQL, a lock, and what expires events and
// returns how many.
func sendExpiry(ctx context.Context, pool *pgxpool.Pool, b *pgx.Batch) (locked int, expired int64, err error) {
	results := pool.SendBatch(ctx, b)
	defer results.Close()
	if err := execAll(results, 2); err != nil {
		return 0, 0, err
	}
	if err := results.QueryRow().Scan(&locked, nil); err != nil {
		return 0, 0, err
	}
	if err := results.QueryRow().Scan(&expired); err != nil {
		return 0, 0, err
	}
	return locked, expired, results.Close() // reads the answers to the rest, and that all is committed
}

// persist writes down what a reader has found expired: at once, if the stream is
// free and there is room. A stream under traffic is free for moments only, so one
// that is locked is waited for, in a room of its own: who reads other streams has
// the other. Readers of one user take turns, so that one with many sessions takes
// one place only.
func (l *Log) persist(ctx context.Context, userID string, room chan struct{}, try func(ctx context.Context, lockSQL string) error) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	release, err := l.turns.take(ctx, userID)
	if err != nil {
		return unavailable("expire events", err)
	}
	defer release()
	err = within(ctx, room, func() error { return try(ctx, lockFreeSQL) })
	for start := time.Now(); errors.Is(err, errLocked) || lockTimeout(err); {
		if time.Since(start) > expirePatience {
			break
		}
		err = within(ctx, l.waiting, func() error { return try(ctx, lockWaitSQL) })
	}
	return unavailable("expire events", err)
}

// within calls try when there is room.
func within(ctx context.Context, room chan struct{}, try func() error) error {
	select {
	case room <- struct{}{}:
		defer func() { <-room }()
		return try()
	case <-ctx.Done():
		return ctx.Err()
	}
}
