package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// appendStore is the SQL of the group commit.
type appendStore struct {
	pool         *pgxpool.Pool
	deliverDelay time.Duration
	history      *History
	maxPending   int64 // per user; 0 for no bound
}

// appendSQL numbers and inserts a batch, and inserts the delivery jobs of the
// lanes that it turned from idle to owed.
//
// $1, $2: the users, sorted, and how many messages each gets: the upsert locks
// the streams in that order, existing ones and new ones alike (locking the
// existing first and inserting the missing later deadlocks with a batch that
// has just created one of them). $3 …: a row per message; back is its distance
// from the user's new head. Empty arrays stand for all NULL.
//
// An idle lane becomes owed if somebody is connected, and parked if not: a delivery
// job for a user who is away would only find that out. Where there is no row nobody is
// connected: a connect makes the row first. armed tells whether this batch turned the
// lane: PostgreSQL before 18 cannot return the old row of an upsert. stream_connected
// must be called once per row, for each call has a snapshot of its own.
//
// A stream that would have more than $13 messages pending is left as it is, and not
// in the answer.
const appendSQL = `
WITH counts AS (SELECT * FROM unnest($1::text[], $2::int[]) AS c(user_id, n)
	WHERE ` + guardSQL + `$12` + guardEndSQL + `),
up AS (
	INSERT INTO streams AS s (user_id, head, armed, lane)
	SELECT user_id, n, 1, 2 FROM counts WHERE n <= $13::bigint
	ON CONFLICT (user_id) DO UPDATE SET
		head  = s.head + excluded.head,
		armed = CASE WHEN s.lane = 0 THEN s.head + 1 ELSE s.armed END,
		lane  = CASE WHEN s.lane <> 0 THEN s.lane WHEN stream_connected(s.user_id) THEN 1 ELSE 2 END
	WHERE s.head + excluded.head - s.acked <= $13
	RETURNING user_id, head, armed, lane),
ev AS (
	INSERT INTO events (user_id, seq, payload, publisher, created_at, expires_at, type, idempotency_key, traceparent)
	SELECT m.user_id, up.head - m.back, m.payload, m.publisher, now(), now() + m.ttl * interval '1 millisecond',
		m.type, m.idempotency_key, m.traceparent
	FROM unnest($3::text[], $4::int[], $5::bytea[], $6::text[], $7::bigint[], $8::text[], $9::text[], $10::text[])
		AS m(user_id, back, payload, publisher, ttl, type, idempotency_key, traceparent)
	JOIN up ON up.user_id = m.user_id),
jobs AS (
	INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at)
	SELECT jsonb_build_object('user_id', up.user_id), '` + JobKind + `', '` + JobQueue + `', ` + jobMaxAttempts + `, now() + $11::interval
	FROM up JOIN counts ON counts.user_id = up.user_id
	WHERE up.lane = 1 AND up.armed = up.head - counts.n + 1)
SELECT user_id, head, lane, now() FROM up`

// outcomeUnknown is a failure after which only Postgres knows whether the batch
// was committed.
type outcomeUnknown struct{ cause error }

func (e *outcomeUnknown) Error() string   { return ErrOutcomeUnknown.Error() + ": " + e.cause.Error() }
func (e *outcomeUnknown) Unwrap() []error { return []error{ErrOutcomeUnknown, e.cause} }

func isOutcomeUnknown(err error) bool { return errors.Is(err, ErrOutcomeUnknown) }

// write commits a batch and fills in the receipts. It returns the new heads of
// the streams that grew and whose users may be connected.
func (s *appendStore) write(ctx context.Context, batch []*appendRequest) ([]Head, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("append events: %w: %w", ErrUnavailable, err)
	}
	defer conn.Release()

	if keyed(batch) {
		done, err := s.writeLocked(ctx, conn.Conn(), batch, lockMode{waiting: true})
		return done.heads, err
	}
	for _, r := range batch {
		r.receipts = make([]Receipt, len(r.msgs))
	}
	rows := newAppendRows(batch)
	answer, err := conn.Query(ctx, appendSQL, rows.args(s)...)
	if err != nil {
		return nil, appendError(err)
	}
	acceptedAt, err := rows.read(answer)
	if err != nil {
		return nil, appendError(err)
	}
	rows.receipts(acceptedAt)
	return rows.near, nil
}

// appendError tells a statement that Postgres rolled back from one whose fate
// nobody knows.
func appendError(err error) error {
	if _, ok := refused(err); ok || pgconn.SafeToRetry(err) {
		return fmt.Errorf("append events: %w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("append events: %w", &outcomeUnknown{err})
}

// appendRow is one message on its way into the log.
type appendRow struct {
	msg     *Message
	receipt *Receipt
	user    int // index in heads
}

// appendRows is a batch in the shape of appendSQL's arguments.
type appendRows struct {
	rows  []appendRow
	heads []Head // sorted by user; Seq is the count before insert, the head after
	near  []Head // after insert: those of heads whose lane is not parked, for I3 says that nobody waits for the others
	full  []bool // after insert, if any: by index in heads, the users who have too many messages pending
	limit int64  // of pending messages
}

// newAppendRows takes the messages of a batch that are still to be written: all
// whose receipt is empty.
func newAppendRows(batch []*appendRequest) *appendRows {
	a := &appendRows{}
	index := map[string]int{}
	for _, r := range batch {
		for i := range r.msgs {
			if r.receipts[i] != (Receipt{}) {
				continue
			}
			m := &r.msgs[i]
			if _, ok := index[m.UserID]; !ok {
				index[m.UserID] = 0
				a.heads = append(a.heads, Head{UserID: m.UserID})
			}
			a.rows = append(a.rows, appendRow{msg: m, receipt: &r.receipts[i]})
		}
	}
	// Bytewise, as the column's collation "C" compares.
	slices.SortFunc(a.heads, func(x, y Head) int { return strings.Compare(x.UserID, y.UserID) })
	for i := range a.heads {
		index[a.heads[i].UserID] = i
	}
	for i := range a.rows {
		a.rows[i].user = index[a.rows[i].msg.UserID]
		a.heads[a.rows[i].user].Seq++
	}
	return a
}

// rowsOf returns all messages of a batch.
func rowsOf(batch []*appendRequest) (rows []appendRow) {
	for _, r := range batch {
		for i := range r.msgs {
			rows = append(rows, appendRow{msg: &r.msgs[i], receipt: &r.receipts[i]})
		}
	}
	return rows
}

// read takes over appendSQL's answer: heads hold the new heads.
func (a *appendRows) read(rows pgx.Rows) (acceptedAt time.Time, err error) {
	var head Head
	var lane Lane
	taken := make([]bool, len(a.heads))
	found := 0
	a.near = make([]Head, 0, len(a.heads))
	_, err = pgx.ForEachRow(rows, []any{&head.UserID, &head.Seq, &lane, &acceptedAt}, func() error {
		i, ok := slices.BinarySearchFunc(a.heads, head.UserID, func(h Head, user string) int { return strings.Compare(h.UserID, user) })
		if !ok {
			return fmt.Errorf("user %q was not in the batch", head.UserID)
		}
		a.heads[i].Seq = head.Seq
		if lane != Parked {
			a.near = append(a.near, head)
		}
		taken[i] = true
		found++
		return nil
	})
	if err == nil && found < len(a.heads) {
		for i := range taken {
			taken[i] = !taken[i]
		}
		a.full = taken
	}
	return acceptedAt, err
}

// args builds appendSQL's arguments. Columns that no message of the batch uses
// are sent as empty arrays.
func (a *appendRows) args(s *appendStore) []any {
	users, counts := make([]string, len(a.heads)), make([]int32, len(a.heads))
	for i, h := range a.heads {
		users[i], counts[i] = h.UserID, int32(h.Seq)
	}
	n := len(a.rows)
	var (
		owners, publishers = make([]string, n), make([]string, n)
		back               = make([]int32, n)
		payloads           = make([][]byte, n)
		ttls               = make([]int64, n)
		types, keys, trace []*string
		left               = slices.Clone(counts)
	)
	set := func(column *[]*string, i int, value *string) {
		if *value == "" {
			return
		}
		if *column == nil {
			*column = make([]*string, n)
		}
		(*column)[i] = value
	}
	for i, row := range a.rows {
		left[row.user]--
		m := row.msg
		owners[i], publishers[i], back[i] = m.UserID, m.Publisher, left[row.user]
		payloads[i], ttls[i] = m.Payload, m.TTL.Milliseconds()
		set(&types, i, &m.Type)
		set(&keys, i, &m.Key)
		set(&trace, i, &m.Traceparent)
		row.receipt.Seq = -int64(back[i]) // the head is added when it is known
	}
	a.limit = s.mostPending()
	return []any{users, counts, owners, back, payloads, publishers, ttls, orEmpty(types), orEmpty(keys), orEmpty(trace), s.deliverDelay, s.history.guard(), a.limit}
}

func orEmpty(column []*string) []*string {
	if column == nil {
		return []*string{}
	}
	return column
}

// receipts answers the rows that insert has written, or refused.
func (a *appendRows) receipts(acceptedAt time.Time) {
	for _, row := range a.rows {
		if a.full != nil && a.full[row.user] {
			*row.receipt = Receipt{Err: &TooManyPendingError{a.limit}}
			continue
		}
		row.receipt.Seq += a.heads[row.user].Seq
		row.receipt.AcceptedAt = acceptedAt
		row.receipt.ExpiresAt = acceptedAt.Add(row.msg.TTL)
	}
}
