package events_test

import (
	"errors"
	"testing"
	"time"

	"restante/internal/events"
	"restante/internal/testdb"
)

// A dump is restored into the same database while a replica runs: its connections
// live on, and none of what it still does may reach the other history.
func TestNothingCrossesIntoAnotherHistory(t *testing.T) {
	t.Parallel()
	restored := map[string][]string{
		"meta":    {`CREATE TABLE copy (LIKE meta INCLUDING ALL)`, `INSERT INTO copy SELECT * FROM meta`, `DROP TABLE meta`, `ALTER TABLE copy RENAME TO meta`},
		"streams": {`CREATE TABLE copy (LIKE streams INCLUDING ALL)`, `INSERT INTO copy SELECT * FROM streams`, `DROP TABLE streams`, `ALTER TABLE copy RENAME TO streams`},
		"events":  {`CREATE TABLE copy (LIKE events INCLUDING ALL)`, `INSERT INTO copy SELECT * FROM events`, `DROP TABLE events`, `ALTER TABLE copy RENAME TO events`},
		"epoch":   {`UPDATE meta SET epoch = 'other'`},
		"nothing": {`DELETE FROM meta`}, // in the middle of a restore
	}
	keyed := message("al", "keyed")
	keyed.Key = "key"
	for what, statements := range restored {
		for name, try := range map[string]func(*replica) error{
			"append": func(log *replica) error {
				_, err := log.Append(t.Context(), []events.Message{message("al", "x")})
				return err
			},
			"append with a key": func(log *replica) error {
				_, err := log.Append(t.Context(), []events.Message{keyed})
				return err
			},
			"read": func(log *replica) error {
				_, err := log.Read(t.Context(), "al", 0, 0)
				return err
			},
			"attach": func(log *replica) error {
				_, err := log.Attach(t.Context(), events.Session{ID: "s", UserID: "al", ReplicaID: "r", Transport: "test", ConnectedAt: time.Now()})
				return err
			},
			"ack": func(log *replica) error {
				log.Ack("al", 2)
				return events.ErrUnavailable // nobody waits for it
			},
		} {
			t.Run(what+", "+name, func(t *testing.T) {
				t.Parallel()
				log, h := startHistory(t, testdb.New(t).URL)
				log.post(t, "al", "1")
				log.post(t, "al", "2")
				// Each connection has prepared all of it before.
				if _, err := log.Read(t.Context(), "al", 0, 0); err != nil {
					t.Fatal(err)
				}
				log.Ack("al", 1)
				until(t, "acked", func() bool { return acked(t, log, "al") == 1 })
				for _, sql := range statements {
					log.exec(t, sql)
				}
				if err := try(log); !errors.Is(err, events.ErrUnavailable) || errors.Is(err, events.ErrOutcomeUnknown) {
					t.Errorf("error: %v", err)
				}
				until(t, "the change is noticed", func() bool { return h.Err() != nil })
				var head, confirmed, sessions int64
				if err := log.relaxed.QueryRow(t.Context(), `SELECT head, acked, (SELECT count(*) FROM sessions) FROM streams`).Scan(&head, &confirmed, &sessions); err != nil {
					t.Fatal(err)
				}
				if head != 2 || confirmed != 1 || sessions != 0 {
					t.Errorf("head %d, acked %d, %d sessions in the other history", head, confirmed, sessions)
				}
			})
		}
	}
}

func acked(t *testing.T, log *replica, user string) (seq int64) {
	t.Helper()
	if err := log.relaxed.QueryRow(t.Context(), `SELECT acked FROM streams WHERE user_id = $1`, user).Scan(&seq); err != nil {
		t.Fatal(err)
	}
	return seq
}
