package events

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A user may come back to millions of events that have expired. To read past them
// takes seconds, and to delete them a minute. So the reader finds the first event
// that is still good by the blocks that note_event_block writes, records what lies
// before it as a range of expired events, and goes on. Trim deletes them later.

const (
	stepping   = 2                      // readers that step over expired events at a time
	stepTime   = 500 * time.Millisecond // of one look for the next good event; what it has covered by then is recorded
	blockSeqs  = 1024                   // seqs of a block: must match note_event_block
	stepBlocks = 8192                   // blocks looked at per statement
	firstLook  = blockSeqs              // seqs looked through in one statement, where no block helps
	widestLook = 65536                  // the same, when that has found nothing several times
)

// stepBlocksSQL returns how far all events after position $2 are known to have
// expired: by a range, or by the unbroken run of blocks that begins at the position.
const stepBlocksSQL = `
WITH runs AS (
	SELECT n, through = (($2::bigint / ` + blockSeqsSQL + `) + n) * ` + blockSeqsSQL + ` AND expires_at <= now() AS expired
	FROM (SELECT through, expires_at, row_number() OVER (ORDER BY through) AS n FROM event_blocks
		WHERE user_id = $1 AND through > $2 ORDER BY through LIMIT $3) b)
SELECT greatest($2::bigint,
	(SELECT max(to_seq) FROM expired_ranges WHERE user_id = $1 AND from_seq <= $2 + 1),
	($2 / ` + blockSeqsSQL + ` + (SELECT coalesce(min(n) FILTER (WHERE NOT expired) - 1, count(*)) FROM runs)) * ` + blockSeqsSQL + `)`

const blockSeqsSQL = `1024`

// nextGoodSQL finds the first event that has not expired, among $3 seqs after $2.
const nextGoodSQL = `
SELECT seq FROM events
WHERE user_id = $1 AND seq > $2 AND seq <= $2 + $3::bigint AND expires_at > now() ORDER BY seq LIMIT 1`

// nextGood returns how far everything after a position has expired or is gone: up
// to the next event that has not, to the head, or to where its time was up.
func nextGood(ctx context.Context, pool *pgxpool.Pool, userID string, after, head int64) (through int64, err error) {
	start, width := time.Now(), int64(firstLook)
	for through = after; through < head && time.Since(start) < stepTime; {
		var known int64
		if err := pool.QueryRow(ctx, stepBlocksSQL, userID, through, stepBlocks).Scan(&known); err != nil {
			return 0, err
		}
		if through = min(known, head); through == head {
			break
		}
		var good int64
		switch err := pool.QueryRow(ctx, nextGoodSQL, userID, through, width).Scan(&good); {
		case err == nil:
			return good - 1, nil
		case !errors.Is(err, pgx.ErrNoRows):
			return 0, err
		}
		through = min(through+width, head)
		width = min(2*width, widestLook)
	}
	return through, nil
}

// recordSQL records the events after position $1, or after acked if that is further,
// and up to $2 as expired, and moves acked over them where they come next. It counts
// none: whoever deletes them does.
const recordSQL = `
WITH s AS MATERIALIZED (
	SELECT user_id, acked, confirmed, greatest(acked, $1::bigint) + 1 AS from_seq FROM streams WHERE user_id = ` + lockedHereSQL + ` AND ` + guardSQL + `$3` + guardEndSQL + `),
recorded AS (
	INSERT INTO expired_ranges AS x (user_id, from_seq, to_seq) SELECT user_id, from_seq, $2::bigint FROM s WHERE from_seq <= $2
	ON CONFLICT (user_id, from_seq) DO UPDATE SET to_seq = greatest(x.to_seq, excluded.to_seq)),
passed AS (
	UPDATE streams SET acked = $2, confirmed = ` + confirmedSQL + ` FROM s
	WHERE streams.user_id = s.user_id AND s.from_seq = s.acked + 1 AND s.from_seq <= $2)
SELECT 0`

// stepOver returns how far a reader may go from a position without missing
// anything: what lies between has expired, and that is recorded on disk.
func (l *Log) stepOver(ctx context.Context, userID string, after, head int64) (through int64, err error) {
	err = l.persist(ctx, userID, l.stepping, func(ctx context.Context, lockSQL string) error {
		if through, err = nextGood(ctx, l.cfg.Relaxed, userID, after, head); err != nil || through == after {
			return err
		}
		locked, err := l.record(ctx, lockSQL, userID, after, through)
		if err == nil && locked == 0 {
			err = errLocked
		}
		return err
	})
	return through, err
}

// record makes a range of expired events of a stream that lockSQL locks, and
// returns how many it has locked.
func (l *Log) record(ctx context.Context, lockSQL, userID string, after, through int64) (locked int, err error) {
	b := &pgx.Batch{}
	b.Queue(durablySQL)
	b.Queue(patienceSQL)
	b.Queue(lockSQL, []string{userID})
	b.Queue(recordSQL, after, through, l.cfg.History.guard())
	locked, _, err = sendExpiry(ctx, l.cfg.Relaxed, b)
	l.cfg.History.meets(err)
	return locked, err
}
