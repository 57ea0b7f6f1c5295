package events_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"restante/internal/events"
)

func (r *replica) trim(t *testing.T) events.Trimmed {
	t.Helper()
	done, err := r.Trim(t.Context(), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// age makes a user's messages older than the retention of a day.
func (r *replica) age(t *testing.T, user string, through int64) {
	t.Helper()
	r.exec(t, `UPDATE events SET created_at = now() - interval '25 h' WHERE user_id = $1 AND seq <= $2`, user, through)
}

// want compares a stream's positions and what is left of it.
func (r *replica) want(t *testing.T, user string, acked, trimmed int64, left ...int64) {
	t.Helper()
	var a, tr int64
	if err := r.relaxed.QueryRow(t.Context(), `SELECT acked, trimmed FROM streams WHERE user_id = $1`, user).Scan(&a, &tr); err != nil {
		t.Fatal(err)
	}
	rows, err := r.relaxed.Query(t.Context(), `SELECT seq FROM events WHERE user_id = $1 ORDER BY seq`, user)
	if err != nil {
		t.Fatal(err)
	}
	seqs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	if a != acked || tr != trimmed || fmt.Sprint(seqs) != fmt.Sprint(left) {
		t.Errorf("%s: acked %d, trimmed %d, left %v; want %d, %d, %v", user, a, tr, seqs, acked, trimmed, left)
	}
}

// Expiry moves the confirmed position over what has expired, and over nothing else.
func TestTrimExpiresWhatNobodyConfirmed(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for user, expired := range map[string][]int64{
		"none": nil, "first": {1, 2}, "middle": {3}, "last": {5}, "all": {1, 2, 3, 4, 5}, "confirmed": {1, 2, 4},
	} {
		log.fill(t, user, 5, 10)
		log.expire(t, user, expired...)
	}
	log.confirm(t, "confirmed", 3)
	done := log.trim(t)
	if done.Expired != 2+1+1+5+1 || done.Deleted != 0 || !done.Round {
		t.Errorf("trimmed %+v", done)
	}
	log.want(t, "none", 0, 0, 1, 2, 3, 4, 5)
	log.want(t, "first", 2, 0, 3, 4, 5)
	log.want(t, "middle", 0, 0, 1, 2, 4, 5)
	log.want(t, "last", 0, 0, 1, 2, 3, 4)
	log.want(t, "all", 5, 0)
	log.want(t, "confirmed", 4, 0, 1, 2, 3, 5) // a delivered message stays, whatever its time was
	if done := log.trim(t); done.Expired != 0 || done.Deleted != 0 {
		t.Errorf("trimmed again %+v", done)
	}
	// Nobody confirms a hole: when what lies before it is confirmed, trim goes over it.
	log.confirm(t, "middle", 2)
	log.confirm(t, "last", 4)
	log.trim(t)
	log.want(t, "middle", 3, 0, 1, 2, 4, 5)
	log.want(t, "last", 5, 0, 1, 2, 3, 4)
	log.expire(t, "middle", 4)
	log.trim(t)
	log.want(t, "middle", 4, 0, 1, 2, 5)
}

func TestTrimKeepsWhatIsPendingOrRecent(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for _, user := range []string{"old", "pending", "recent", "part"} {
		log.fill(t, user, 4, 10)
	}
	log.age(t, "old", 4)
	log.confirm(t, "old", 4)
	log.age(t, "pending", 4)
	log.confirm(t, "recent", 4)
	log.age(t, "part", 3)
	log.confirm(t, "part", 2)
	if done := log.trim(t); done.Deleted != 4+2 || done.Expired != 0 {
		t.Errorf("trimmed %+v", done)
	}
	log.want(t, "old", 4, 4)
	log.want(t, "pending", 0, 0, 1, 2, 3, 4)
	log.want(t, "recent", 4, 0, 1, 2, 3, 4)
	log.want(t, "part", 2, 2, 3, 4)
	log.post(t, "old", "x")
	log.want(t, "old", 4, 4, 5)
}

// More streams than a step looks at, and more events than a step deletes.
func TestTrimWalksAllStreamsInSmallSteps(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.exec(t, `INSERT INTO streams (user_id, head, acked) SELECT 'user' || i, 3, 3 FROM generate_series(1, 1200) i`)
	log.exec(t, `INSERT INTO events (user_id, seq, payload, publisher, created_at, expires_at)
		SELECT 'user' || i, s, '1', 'test', now() - interval '25 h', now() + interval '1 h' FROM generate_series(1, 1200) i, generate_series(1, 3) s`)
	log.exec(t, `INSERT INTO streams (user_id, head, acked) VALUES ('long', 7000, 7000)`)
	log.exec(t, `INSERT INTO events (user_id, seq, payload, publisher, created_at, expires_at)
		SELECT 'long', s, '1', 'test', now() - interval '25 h', now() + interval '1 h' FROM generate_series(1, 7000) s WHERE s > 2500 AND s % 5 > 0`) // with holes, one of them longer than a step
	// No transaction may keep many streams locked, or a stream for long.
	log.exec(t, `CREATE TABLE deletes (tx xid8, user_id text, n int)`)
	log.exec(t, `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO deletes SELECT pg_current_xact_id(), user_id, count(*) FROM gone GROUP BY user_id; RETURN NULL; END $$`)
	log.exec(t, `CREATE TRIGGER note AFTER DELETE ON events REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note()`)
	done := log.trim(t)
	if done.Deleted != 3600+3600 || !done.Round {
		t.Errorf("trimmed %+v", done)
	}
	var left, behind int
	if err := log.relaxed.QueryRow(t.Context(), `SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM streams WHERE trimmed < head)`).Scan(&left, &behind); err != nil {
		t.Fatal(err)
	}
	if left != 0 || behind != 0 {
		t.Errorf("%d events left, %d streams not trimmed", left, behind)
	}
	var events, streams int
	if err := log.relaxed.QueryRow(t.Context(), `SELECT max(n), max(u) FROM (SELECT sum(n) AS n, count(DISTINCT user_id) AS u FROM deletes GROUP BY tx) x`).Scan(&events, &streams); err != nil {
		t.Fatal(err)
	}
	if events > 10_000 || streams > 100 {
		t.Errorf("one transaction deleted %d events of %d streams", events, streams)
	}
}

// The walk goes on where it stopped, on whatever replica.
func TestTrimGoesOnWhereItStopped(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.exec(t, `INSERT INTO streams (user_id) SELECT 'user' || lpad(i::text, 5, '0') FROM generate_series(1, 1200) i`)
	after := func() (user string) {
		if err := log.relaxed.QueryRow(t.Context(), `SELECT trim_after FROM meta`).Scan(&user); err != nil {
			t.Fatal(err)
		}
		return user
	}
	for i, want := range []string{"user00500", "user01000", ""} {
		done, err := log.Trim(t.Context(), 0)
		if err != nil || done.Round != (want == "") || after() != want {
			t.Errorf("step %d: %+v, %v, stopped after %q, want %q", i, done, err, after(), want)
		}
	}
}

// The counter-example: two trims at once. The second one must neither wait for
// the first nor send it back to where the walk begins.
func TestTrimLeavesTheWalkToAnother(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.fill(t, "al", 2, 10)
	log.expire(t, "al", 1)
	log.exec(t, `UPDATE meta SET trim_after = 'a'`)
	tx, err := log.relaxed.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT 1 FROM meta FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	done, err := log.Trim(t.Context(), 20*time.Second)
	if err != nil || !done.Round || done.Expired != 0 || time.Since(start) > time.Second {
		t.Errorf("%+v, %v after %v", done, err, time.Since(start))
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	var after string
	if err := log.relaxed.QueryRow(t.Context(), `SELECT trim_after FROM meta`).Scan(&after); err != nil || after != "a" {
		t.Errorf("the walk stands after %q, %v", after, err)
	}
}

// The counter-example: somebody keeps one stream locked. Trim waits for it, with
// the locks of other streams in its hands, fails, and begins there the next time.
func TestTrimGoesAroundALockedStream(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for _, user := range []string{"a", "b", "c"} {
		log.fill(t, user, 2, 10)
		log.expire(t, user, 1)
	}
	release := holdLock(t, log, "b")
	defer release()
	if done := log.trim(t); done.Expired != 2 || !done.Round {
		t.Errorf("trimmed %+v", done)
	}
	log.want(t, "a", 1, 0, 2)
	log.want(t, "b", 0, 0, 1, 2)
	log.want(t, "c", 1, 0, 2)
	release()
	if done := log.trim(t); done.Expired != 1 {
		t.Errorf("trimmed %+v when the stream was free", done)
	}
	log.want(t, "b", 1, 0, 2)
}

func TestStatusOfEveryState(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.fill(t, "al", 8, 10)
	log.expire(t, "al", 5, 7)
	log.confirm(t, "al", 4)
	log.age(t, "al", 2)
	check := func(when string, want map[int64]any) {
		t.Helper()
		for seq, w := range want {
			status, err := log.Status(t.Context(), "al", seq)
			if w == nil {
				if !errors.Is(err, events.ErrNotFound) {
					t.Errorf("%s, message %d: %+v, %v", when, seq, status, err)
				}
				continue
			}
			if err != nil || status.State != w {
				t.Errorf("%s, message %d: %+v, %v, want %v", when, seq, status, err, w)
			}
		}
	}
	same := map[int64]any{-1: nil, 0: nil, 3: events.Delivered, 4: events.Delivered, 5: events.Expired, 6: events.Accepted, 7: events.Expired, 8: events.Accepted, 9: nil}
	check("before the trim", same)
	check("before the trim", map[int64]any{1: events.Delivered, 2: events.Delivered})
	log.trim(t)
	check("after the trim", same)
	check("after the trim", map[int64]any{1: nil, 2: nil})
	if _, err := log.Status(t.Context(), "nobody", 1); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("unknown user: %v", err)
	}
	status, err := log.Status(t.Context(), "al", 8)
	if err != nil || status.AcceptedAt.IsZero() || status.ExpiresAt.Sub(status.AcceptedAt) != time.Hour {
		t.Errorf("times: %+v, %v", status, err)
	}
}
