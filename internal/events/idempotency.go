package events

import (
	"bytes"
	"fmt"
	"slices"

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

func execAll(results pgx.BatchResults, n int) error {
	for range n {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	return nil
}

// queueLook queues lookSQL for the rows that carry a key, each key once, if there are any.
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
	if len(keys) > 0 {
		b.Queue(lookSQL, users, publishers, keys)
	}
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
