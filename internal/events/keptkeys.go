package events

import (
	"context"
	"crypto/sha256"
	"time"
)

// An idempotency key is a column of its event. When the event is deleted before the
// key may be forgotten, the same statement moves the key to idempotency_keys, with
// a digest of what was posted. So keys cost an append nothing, and the release
// before, which knows events only, sees all keys that it could see before.
//
// Both parts go into a statement that deletes events e as "gone"; $1 is how long a
// key is kept after its append.
const (
	returnKeySQL = `RETURNING e.user_id, e.seq, e.publisher, e.idempotency_key, e.created_at, e.expires_at,
		CASE WHEN e.idempotency_key IS NOT NULL AND e.created_at > now() - $1::interval
			THEN sha256(e.payload || '\x00'::bytea || convert_to(coalesce(e.type, ''), 'UTF8')) END AS digest`

	keepKeySQL = `kept AS (
	INSERT INTO idempotency_keys (user_id, publisher, idempotency_key, seq, digest, accepted_at, expires_at, forget_at)
	SELECT user_id, publisher, idempotency_key, seq, digest, created_at, expires_at, created_at + $1::interval
	FROM gone WHERE digest IS NOT NULL
	ON CONFLICT (user_id, publisher, idempotency_key) DO UPDATE SET seq = excluded.seq, digest = excluded.digest,
		accepted_at = excluded.accepted_at, expires_at = excluded.expires_at, forget_at = excluded.forget_at)`
)

// digest is that of keepKeySQL.
func digest(m *Message) [sha256.Size]byte {
	h := sha256.New()
	h.Write(m.Payload)
	h.Write([]byte{0})
	h.Write([]byte(m.Type))
	return [sha256.Size]byte(h.Sum(nil))
}

const (
	forgetKeys = 2000 // keys forgotten per statement

	forgetKeysSQL = `
DELETE FROM idempotency_keys WHERE ctid = ANY(ARRAY(
	SELECT ctid FROM idempotency_keys WHERE forget_at <= now() ORDER BY forget_at LIMIT $1 FOR UPDATE SKIP LOCKED))`
)

// forgetKeys deletes keys that need not be kept any more, until deadline.
func (l *Log) forgetKeys(ctx context.Context, deadline time.Time) error {
	for {
		tag, err := l.cfg.Relaxed.Exec(ctx, forgetKeysSQL, forgetKeys)
		if err != nil || tag.RowsAffected() < forgetKeys || time.Now().After(deadline) {
			return err
		}
	}
}
