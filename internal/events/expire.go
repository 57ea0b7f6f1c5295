package events

import (
	"context"

	"github.com/jackc/pgx/v5"
)

const expiring = 2 // readers that expire events at a time

const (
	// durablySQL makes a relaxed transaction wait for the disk.
	durablySQL = `SELECT set_config('synchronous_commit', 'on', true)`

	// patienceSQL is for who holds up others while it waits for a stream that somebody
	// keeps locked.
	patienceSQL = `SELECT set_config('lock_timeout', '200ms', true)`

	// lockStreamsSQL locks streams that exist, in the order of user ids.
	lockStreamsSQL = `SELECT user_id FROM streams WHERE user_id = ANY($1) ORDER BY user_id FOR NO KEY UPDATE`

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
)

// expire deletes and counts the pending events of a user whose time is up. It
// comes before a reader is given a page that leaves them out: what its client then
// confirms lies beyond them, and from acked alone they would look delivered. It
// waits for the disk, or a crash of Postgres could bring them back after that.
//
// There are few: trim comes every minute. Whatever Trim or another reader does at
// the same time, the stream's lock decides who expires an event, once. It is not
// waited for for long, and few do this at a time, so that appends and the readers of
// other streams have their connections.
func (l *Log) expire(ctx context.Context, userID string) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	select {
	case l.expiring <- struct{}{}:
		defer func() { <-l.expiring }()
	case <-ctx.Done():
		return unavailable("expire events", ctx.Err())
	}
	users := []string{userID}
	b := &pgx.Batch{}
	b.Queue(patienceSQL)
	b.Queue(lockStreamsSQL, users)
	b.Queue(expireSQL, users)
	b.Queue(passSQL, users)
	results := l.cfg.Durable.SendBatch(ctx, b)
	defer results.Close()
	if err := execAll(results, 2); err != nil {
		return unavailable("expire events", err)
	}
	expired, err := results.Exec()
	if err == nil {
		err = results.Close() // reads the answer to passSQL, and that all is committed
	}
	if err != nil {
		return unavailable("expire events", err)
	}
	l.metrics.expired.Add(float64(expired.RowsAffected()))
	l.expired.Add(expired.RowsAffected())
	return nil
}
