package events_test

import (
	"errors"
	"testing"
	"time"

	"restante/internal/events"
)

// postKeyed appends a message with a key and returns its receipt.
func (r *replica) postKeyed(t *testing.T, user, key, text string, change ...func(*events.Message)) events.Receipt {
	t.Helper()
	m := message(user, text)
	m.Key = key
	for _, c := range change {
		c(&m)
	}
	receipts, err := r.Append(t.Context(), []events.Message{m})
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return receipts[0]
}

// The counter-example: a publisher that got no answer tries again an hour later. Its
// message had expired by then, or been delivered and trimmed, and is posted twice.
func TestKeysOutliveTheirMessages(t *testing.T) {
	t.Parallel()
	log := startLog(t, func(cfg *events.Config) { cfg.Retention = time.Hour })
	for user, lose := range map[string]func(user string){
		"expired":         func(string) {},
		"expired, read":   func(user string) { log.read(t, user, 0) },
		"expired, trim":   func(string) { log.trim(t) },
		"in a range":      func(user string) { log.lengthen(t, user, 10_000); log.readOn(t, user, 0, 10_000, 3) },
		"range, trimmed":  func(user string) { log.lengthen(t, user, 10_000); log.readOn(t, user, 0, 10_000, 3); log.trim(t) },
		"delivered, trim": func(user string) { log.confirm(t, user, 2); log.trim(t) },
	} {
		first := log.postKeyed(t, user, "k", "x", func(m *events.Message) { m.Type = "type" })
		second := log.postKeyed(t, user, "other", "x")
		log.exec(t, `UPDATE events SET created_at = created_at - interval '2 h', expires_at = now() WHERE user_id = $1`, user)
		lose(user)
		again := log.postKeyed(t, user, "k", "x", func(m *events.Message) { m.Type = "type" })
		if !again.Repeated || again.Seq != first.Seq || again.ExpiresAt.IsZero() || again.AcceptedAt.IsZero() {
			t.Errorf("%s: repeated %+v, first %+v", user, again, first)
		}
		for what, other := range map[string]events.Receipt{
			"another payload": log.postKeyed(t, user, "k", "y", func(m *events.Message) { m.Type = "type" }),
			"another type":    log.postKeyed(t, user, "k", "x"),
		} {
			if !errors.Is(other.Err, events.ErrKeyReused) {
				t.Errorf("%s, with %s: %+v", user, what, other)
			}
		}
		if another := log.postKeyed(t, user, "k", "x", func(m *events.Message) { m.Publisher = "another" }); another.Repeated || another.Seq <= second.Seq {
			t.Errorf("%s: another publisher's key: %+v", user, another)
		}
	}
}

// lengthen makes the stream of a user n messages long, all of them expired.
func (r *replica) lengthen(t *testing.T, user string, n int) {
	t.Helper()
	r.exec(t, `INSERT INTO events (user_id, seq, payload, publisher, expires_at)
		SELECT user_id, seq, '1', 'test', now() FROM streams, generate_series(head + 1, $2::bigint) seq WHERE user_id = $1`, user, n)
	r.exec(t, `UPDATE streams SET head = $2 WHERE user_id = $1`, user, n)
}

// Keys are forgotten when they may be, and then used anew.
func TestKeysAreForgotten(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.postKeyed(t, "al", "k", "x")
	log.postKeyed(t, "al", "old", "x")
	log.exec(t, `UPDATE events SET created_at = now() - interval '25 h' WHERE idempotency_key = 'old'`)
	log.expire(t, "al", 1, 2)
	log.trim(t)
	kept := func() int64 { return log.number(t, `SELECT count(*) FROM idempotency_keys`) }
	if n := kept(); n != 1 {
		t.Errorf("%d keys are kept, want only the young one", n)
	}
	if again := log.postKeyed(t, "al", "old", "x"); again.Repeated || again.Seq != 3 {
		t.Errorf("an old key: %+v", again)
	}
	log.exec(t, `UPDATE idempotency_keys SET forget_at = now()`)
	if again := log.postKeyed(t, "al", "k", "y"); again.Repeated || again.Seq != 4 {
		t.Errorf("a key that may be forgotten: %+v", again)
	}
	log.expire(t, "al", 4)
	log.read(t, "al", 3) // keeps the key once more, over what is left of its first use
	if again := log.postKeyed(t, "al", "k", "y"); !again.Repeated || again.Seq != 4 {
		t.Errorf("its second use: %+v", again)
	}
	log.exec(t, `UPDATE idempotency_keys SET forget_at = now()`)
	log.exec(t, `INSERT INTO idempotency_keys SELECT 'u', 'p', k::text, 1, '', now(), now(), now() FROM generate_series(1, 5000) k`)
	log.trim(t)
	if n := kept(); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}
