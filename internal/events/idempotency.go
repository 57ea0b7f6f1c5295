package events

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// keyed reports whether a message of the batch carries an idempotency key.
func keyed(batch []*appendRequest) bool {
	for _, r := range batch {
		for i := range r.msgs {
			if r.msgs[i].Key != "" {
				return true
			}
		}
	}
	return false
}

// lockSQL locks the streams of a batch, existing and missing ones alike, in the
// order of $1.
const lockSQL = `
INSERT INTO streams AS s (user_id) SELECT * FROM unnest($1::text[])
ON CONFLICT (user_id) DO UPDATE SET head = s.head`

// lookSQL finds the events that were written under the same keys, and what is left of
// those that are deleted. It has to be a statement of its own after lockSQL: in one
// statement with it, the snapshot would be older than the lock, and miss the row that
// was just committed.
const lookSQL = `
WITH k AS MATERIALIZED (
	SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS k(user_id, publisher, idempotency_key, i))
SELECT k.i, e.seq, e.payload, coalesce(e.type, ''), NULL::bytea, e.created_at, e.expires_at
FROM k JOIN events e ON e.user_id = k.user_id AND e.publisher = k.publisher AND e.idempotency_key = k.idempotency_key
UNION ALL
SELECT k.i, o.seq, NULL, '', o.digest, o.accepted_at, o.expires_at
FROM k JOIN idempotency_keys o ON o.user_id = k.user_id AND o.publisher = k.publisher AND o.idempotency_key = k.idempotency_key
WHERE o.forget_at > now()`

// writeKeyed commits a batch in which messages carry idempotency keys: lock,
// look, then append what is new. Two round trips instead of one.
func (s *appendStore) writeKeyed(ctx context.Context, conn *pgx.Conn, batch []*appendRequest) (_ []Head, err error) {
	all := newAppendRows(batch)
	users := make([]string, len(all.heads))
	for i, h := range all.heads {
		users[i] = h.UserID
	}
	// Nothing is committed before COMMIT is sent, so until then a failure is a
	// rollback whatever became of the connection.
	defer func() {
		if err != nil && !isOutcomeUnknown(err) {
			err = fmt.Errorf("append events: %w: %w", ErrUnavailable, err)
			rollback(ctx, conn)
		}
	}()
	first := &pgx.Batch{}
	first.Queue("BEGIN")
	first.Queue(lockSQL, users)
	look, asked := queueLook(first, all.rows)
	results := conn.SendBatch(ctx, first)
	if err := execAll(results, 2); err != nil {
		results.Close()
		return nil, err
	}
	if err := readFound(results, look, asked); err != nil {
		results.Close()
		return nil, err
	}
	if err := results.Close(); err != nil {
		return nil, err
	}
	repeatsInBatch(all.rows)

	fresh := newAppendRows(batch)
	var acceptedAt time.Time
	if len(fresh.rows) > 0 {
		if acceptedAt, err = fresh.insert(ctx, conn, s.deliverDelay); err != nil {
			return nil, err
		}
	}
	if _, err := conn.Exec(ctx, "COMMIT"); err != nil {
		return nil, commitError(err)
	}
	fresh.receipts(acceptedAt)
	settleRepeats(all.rows)
	return fresh.near, nil
}

// commitError is appendError of a COMMIT. The driver's word that nothing was sent
// is not taken here: for a connection that broke under a simple query (pgx before 5.13)
// it says so as well, and whoever believes it writes the batch twice.
func commitError(err error) error {
	if _, ok := refused(err); ok {
		return fmt.Errorf("append events: %w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("append events: %w", &outcomeUnknown{err})
}

// rollback ends the transaction of a connection that may be broken already.
func rollback(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, "ROLLBACK"); err != nil {
		_ = conn.Close(ctx) // the pool replaces it; Postgres rolls back
	}
}

func execAll(results pgx.BatchResults, n int) error {
	for range n {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	return nil
}

// queueLook queues lookSQL for the rows that carry a key, each key once.
func queueLook(b *pgx.Batch, rows []appendRow) (map[int64][]appendRow, int) {
	byKey := map[[3]string]int64{}
	look := map[int64][]appendRow{}
	var users, publishers, keys []string
	for _, row := range rows {
		m := row.msg
		if m.Key == "" {
			continue
		}
		id := [3]string{m.UserID, m.Publisher, m.Key}
		i, ok := byKey[id]
		if !ok {
			users, publishers, keys = append(users, m.UserID), append(publishers, m.Publisher), append(keys, m.Key)
			i = int64(len(keys))
			byKey[id] = i
		}
		look[i] = append(look[i], row)
	}
	b.Queue(lookSQL, users, publishers, keys)
	return look, len(keys)
}

// readFound answers the rows whose key was used before.
func readFound(results pgx.BatchResults, look map[int64][]appendRow, asked int) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	var (
		i     int64
		first firstUse
	)
	_, err = pgx.ForEachRow(rows, []any{&i, &first.Seq, &first.Payload, &first.Type, &first.digest, &first.CreatedAt, &first.ExpiresAt}, func() error {
		if i < 1 || i > int64(asked) {
			return fmt.Errorf("key %d was not asked for", i)
		}
		for _, row := range look[i] {
			if !first.is(row.msg) {
				*row.receipt = Receipt{Err: ErrKeyReused}
				continue
			}
			*row.receipt = Receipt{Seq: first.Seq, AcceptedAt: first.CreatedAt, ExpiresAt: first.ExpiresAt, Repeated: true}
		}
		return nil
	})
	return err
}

// firstUse is the event that was written under a key, or its digest if the event is
// deleted.
type firstUse struct {
	Event
	digest []byte
}

// is reports whether a message is the one that the key was first used with.
func (f *firstUse) is(m *Message) bool {
	if f.digest == nil {
		return m.Type == f.Type && bytes.Equal(m.Payload, f.Payload)
	}
	sum := digest(m)
	return bytes.Equal(sum[:], f.digest)
}

// repeatsInBatch marks rows that repeat a key of an earlier row of the same
// batch: a publisher's retry may meet its first try while both wait.
func repeatsInBatch(rows []appendRow) {
	first := map[[3]string]*Message{}
	for _, row := range rows {
		m := row.msg
		if m.Key == "" || *row.receipt != (Receipt{}) {
			continue
		}
		id := [3]string{m.UserID, m.Publisher, m.Key}
		switch earlier := first[id]; {
		case earlier == nil:
			first[id] = m
		case earlier.Type != m.Type || !bytes.Equal(earlier.Payload, m.Payload):
			*row.receipt = Receipt{Err: ErrKeyReused}
		default:
			*row.receipt = Receipt{Repeated: true} // settleRepeats fills in the rest
		}
	}
}

// settleRepeats gives the repeats of repeatsInBatch the result of their first.
func settleRepeats(rows []appendRow) {
	for _, row := range rows {
		if !row.receipt.Repeated || row.receipt.Seq != 0 {
			continue
		}
		first := slices.IndexFunc(rows, func(r appendRow) bool {
			return r.msg.Key == row.msg.Key && r.msg.UserID == row.msg.UserID && r.msg.Publisher == row.msg.Publisher
		})
		*row.receipt = *rows[first].receipt
		row.receipt.Repeated = true
	}
}
