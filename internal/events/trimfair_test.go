package events_test

import (
	"fmt"
	"testing"
	"time"
)

// noteDeletes records how many events each statement deletes, of which users, and
// whether its transaction has locked their streams.
func (r *replica) noteDeletes(t *testing.T) {
	t.Helper()
	r.exec(t, `CREATE TABLE deletes (id bigserial, user_id text, n int)`)
	r.exec(t, `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO deletes (user_id, n) SELECT user_id, count(*) FROM gone GROUP BY user_id; RETURN NULL; END $$`)
	r.exec(t, `CREATE TRIGGER note AFTER DELETE ON events REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note()`)
}

// The counter-example: a user with millions of expired events, or with as many past
// the retention. Trim deletes all of them before it comes to anybody else.
func TestTrimComesToEverybodySoon(t *testing.T) {
	t.Parallel()
	for what, large := range map[string]string{
		"expired":   `UPDATE streams SET acked = 0 WHERE user_id = 'b'`,
		"behind 1":  `UPDATE events SET expires_at = now() + interval '1 h' WHERE user_id = 'b' AND seq = 1`,
		"delivered": `UPDATE streams SET acked = head WHERE user_id = 'b'`,
		"mixed":     `UPDATE events SET expires_at = now() + interval '1 h' WHERE user_id = 'b' AND seq % 3 = 0`,
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			log := startLog(t)
			log.backlog(t, "b", 60_000)
			log.exec(t, `UPDATE events SET created_at = now() - interval '25 h'`)
			log.exec(t, large)
			for i := range 60 {
				user := fmt.Sprint("c", i)
				log.fill(t, user, 3, 10)
				log.expire(t, user, 1)
			}
			due := log.number(t, `SELECT count(*) FROM events e JOIN streams s USING (user_id)
				WHERE e.expires_at <= now() AND e.seq > s.acked OR e.seq <= s.acked`)
			log.noteDeletes(t)
			done := log.trim(t)
			if done.Expired+done.Deleted != due || !done.Round {
				t.Errorf("trimmed %+v of %d", done, due)
			}
			if most := log.number(t, `SELECT max(n) FROM deletes`); most > 2000 {
				t.Errorf("a statement deleted %d events", most)
			}
			before := log.number(t, `SELECT coalesce(sum(n), 0) FROM deletes WHERE user_id = 'b' AND id < (SELECT max(id) FROM deletes WHERE user_id LIKE 'c%')`)
			if before > 10_000 {
				t.Errorf("%d events of the large stream were deleted before the last of the others", before)
			}
		})
	}
}

// The counter-example: Postgres refuses to trim one stream, or somebody has locked
// one of its events. Trim fails, and begins at the same place the next time.
func TestTrimGoesOnAfterAStreamThatFails(t *testing.T) {
	t.Parallel()
	for what, spoil := range map[string]func(t *testing.T, log *replica){
		"refused": func(t *testing.T, log *replica) {
			log.exec(t, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$`)
			log.exec(t, `CREATE TRIGGER refuse BEFORE DELETE ON events FOR EACH ROW WHEN (OLD.user_id = 'user15') EXECUTE FUNCTION refuse()`)
		},
		"an event is locked": func(t *testing.T, log *replica) {
			tx, err := log.relaxed.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tx.Rollback(t.Context()) })
			if _, err := tx.Exec(t.Context(), `SELECT 1 FROM events WHERE user_id = 'user15' FOR UPDATE`); err != nil {
				t.Fatal(err)
			}
		},
		"slow": func(t *testing.T, log *replica) {
			log.exec(t, `CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(30); RETURN OLD; END $$`)
			log.exec(t, `CREATE TRIGGER slow BEFORE DELETE ON events FOR EACH ROW WHEN (OLD.user_id = 'user15') EXECUTE FUNCTION slow()`)
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			log := startLog(t)
			for i := range 80 {
				user := fmt.Sprint("user", i)
				log.fill(t, user, 2, 10)
				log.expire(t, user, 1)
			}
			spoil(t, log)
			done, err := log.Trim(t.Context(), 20*time.Second)
			if done.Expired != 79 || done.Skipped != 1 || !done.Round {
				t.Errorf("trimmed %+v", done)
			}
			if wantErr := what != "an event is locked"; (err != nil) != wantErr {
				t.Errorf("the trim returns %v", err)
			}
		})
	}
}
