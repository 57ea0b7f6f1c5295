package events

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// lockMode is how writeLocked gets the locks of a batch's streams.
type lockMode struct {
	waiting bool          // for all streams, in the order of user ids; the others leave out what is locked
	first   string        // a stream to wait for, before any other is locked
	create  bool          // streams that there are not are created; else they count as locked
	wait    time.Duration // lock timeout; zero: the connection's
}

// written is what became of a batch whose locked streams were left out.
type written struct {
	requests []*appendRequest // committed
	heads    []Head           // see appendStore.write
	locked   map[string]bool  // streams for which the other requests were left out
}

const (
	// lockSQL locks the streams of a batch, existing and missing ones alike, in the
	// order of $1.
	lockSQL = `
INSERT INTO streams AS s (user_id) SELECT * FROM unnest($1::text[])
ON CONFLICT (user_id) DO UPDATE SET head = s.head`

	// lockUnlockedSQL locks what nobody else has locked, waiting for nobody, and returns
	// what it has left out.
	lockUnlockedSQL = `
WITH free AS MATERIALIZED (SELECT user_id FROM streams WHERE user_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
SELECT user_id FROM unnest($1::text[]) AS u(user_id) WHERE user_id NOT IN (SELECT user_id FROM free)`

	// lockCreateSQL creates the streams that there are not as well. It waits for those
	// that somebody else is just creating: no statement can see them. One snapshot
	// decides which there are, so that each is locked in one way or the other.
	lockCreateSQL = `
WITH u AS (SELECT * FROM unnest($1::text[]) AS u(user_id)),
free AS MATERIALIZED (SELECT user_id FROM streams WHERE user_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED),
there AS MATERIALIZED (SELECT user_id FROM streams WHERE user_id = ANY($1)),
new AS (
	INSERT INTO streams AS s (user_id) SELECT user_id FROM u WHERE user_id NOT IN (SELECT user_id FROM there) ORDER BY user_id
	ON CONFLICT (user_id) DO UPDATE SET head = s.head)
SELECT user_id FROM there WHERE user_id NOT IN (SELECT user_id FROM free)`

	lockTimeoutSQL = `SELECT set_config('lock_timeout', $1, true)`
	lockFirstSQL   = `SELECT FROM streams WHERE user_id = $1 FOR NO KEY UPDATE`
)

// writeFree commits the requests of a batch whose streams are free, each as a whole.
func (s *appendStore) writeFree(ctx context.Context, batch []*appendRequest, mode lockMode) (written, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return written{}, fmt.Errorf("append events: %w: %w", ErrUnavailable, err)
	}
	defer conn.Release()
	return s.writeLocked(ctx, conn.Conn(), batch, mode)
}

// writeLocked commits a batch in two round trips: it locks the streams and looks for
// idempotency keys, and then appends what is new. The locks are held from one to the
// other; if this replica stands still there, Postgres ends the transaction
// (idle_in_transaction_session_timeout).
func (s *appendStore) writeLocked(ctx context.Context, conn *pgx.Conn, batch []*appendRequest, mode lockMode) (_ written, err error) {
	for _, r := range batch {
		r.receipts = make([]Receipt, len(r.msgs))
	}
	// Nothing is committed before COMMIT is sent, so until then a failure is a
	// rollback whatever became of the connection.
	committing := false
	defer func() {
		switch _, rolledBack := refused(err); {
		case err == nil:
		case committing && !rolledBack:
			err = fmt.Errorf("append events: %w", &outcomeUnknown{err})
		default:
			err = fmt.Errorf("append events: %w: %w", ErrUnavailable, err)
			rollback(ctx, conn)
		}
	}()
	locked, err := lockAndLook(ctx, conn, batch, mode)
	if err != nil {
		return written{}, err
	}
	if len(locked) > 0 {
		batch = slices.DeleteFunc(slices.Clone(batch), func(r *appendRequest) bool {
			return slices.ContainsFunc(r.msgs, func(m Message) bool { return locked[m.UserID] })
		})
	}
	if len(batch) == 0 {
		rollback(ctx, conn)
		return written{locked: locked}, nil
	}
	rows := rowsOf(batch)
	repeatsInBatch(rows)
	fresh := newAppendRows(batch)
	committing = true
	acceptedAt, err := s.appendAndCommit(ctx, conn, fresh)
	if err != nil {
		return written{}, err
	}
	fresh.receipts(acceptedAt)
	settleRepeats(rows)
	return written{requests: batch, heads: fresh.near, locked: locked}, nil
}

// lockAndLook begins a transaction, locks, and answers messages whose key is in the
// log already. It returns the streams that were left out.
func lockAndLook(ctx context.Context, conn *pgx.Conn, batch []*appendRequest, mode lockMode) (locked map[string]bool, err error) {
	all := newAppendRows(batch)
	users := make([]string, len(all.heads))
	for i, h := range all.heads {
		users[i] = h.UserID
	}
	b := &pgx.Batch{}
	b.Queue("BEGIN")
	if mode.wait > 0 {
		b.Queue(lockTimeoutSQL, fmt.Sprint(mode.wait.Milliseconds()))
	}
	if mode.first != "" {
		b.Queue(lockFirstSQL, mode.first)
	}
	before := b.Len()
	switch {
	case mode.waiting:
		b.Queue(lockSQL, users)
	case mode.create:
		b.Queue(lockCreateSQL, users)
	default:
		b.Queue(lockUnlockedSQL, users)
	}
	look, asked := queueLook(b, all.rows)
	results := conn.SendBatch(ctx, b)
	defer func() {
		if closed := results.Close(); err == nil {
			err = closed
		}
	}()
	if err := execAll(results, before); err != nil {
		return nil, err
	}
	if locked, err = readLocked(results); err != nil {
		return nil, err
	}
	if asked == 0 {
		return locked, nil
	}
	return locked, readFound(results, look, asked)
}

func readLocked(results pgx.BatchResults) (map[string]bool, error) {
	rows, err := results.Query()
	if err != nil {
		return nil, err
	}
	users, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	locked := make(map[string]bool, len(users))
	for _, user := range users {
		locked[user] = true
	}
	return locked, nil
}

// appendAndCommit is the transaction's second round trip.
func (s *appendStore) appendAndCommit(ctx context.Context, conn *pgx.Conn, fresh *appendRows) (acceptedAt time.Time, err error) {
	b := &pgx.Batch{}
	if len(fresh.rows) > 0 {
		b.Queue(appendSQL, fresh.args(s)...)
	}
	b.Queue("COMMIT")
	results := conn.SendBatch(ctx, b)
	defer func() {
		if closed := results.Close(); err == nil {
			err = closed
		}
	}()
	if len(fresh.rows) > 0 {
		rows, err := results.Query()
		if err != nil {
			return acceptedAt, err
		}
		if acceptedAt, err = fresh.read(rows); err != nil {
			return acceptedAt, err
		}
	}
	_, err = results.Exec()
	return acceptedAt, err
}

// rollback ends the transaction of a connection that may be broken already.
func rollback(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
		_ = conn.Close(ctx) // the pool replaces it; Postgres rolls back
	}
}
