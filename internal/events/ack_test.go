package events_test

import (
	"fmt"
	"testing"
)

func TestAckNeverMovesBackNorBeyondTheHead(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for range 5 {
		log.post(t, "al", "x")
	}
	log.confirm(t, "al", 3)
	log.Ack("al", 2)
	log.Ack("nobody", 7)
	log.post(t, "bea", "x")
	log.confirm(t, "bea", 1) // a later flush than that of 2
	if acked := log.acked(t, "al"); acked != 3 {
		t.Errorf("acked %d after a smaller ack", acked)
	}
	log.Ack("al", 9) // a position of another epoch
	until(t, "ack is written", func() bool { return log.acked(t, "al") == 5 })
}

// The counter-example: the write of the acks fails once. The client has nothing
// more to confirm, so nobody ever says it again: the lane stays owed for ever.
func TestFailedFlushKeepsItsAcks(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	slow, metrics := measured(t, log.durable.Config().ConnString())
	for range 3 {
		log.post(t, "al", "x")
	}
	release := holdLock(t, log, "al")
	defer release()
	slow.Ack("al", 2)
	log.waiting(t, 1)
	slow.Ack("al", 1) // must not replace what failed
	until(t, "a flush has failed", func() bool { return metric(t, metrics, "restante_ack_flush_errors_total") > 0 })
	release()
	until(t, "ack is written", func() bool { return log.acked(t, "al") == 2 })
}

// One stream that somebody keeps locked does not keep the others' acks.
func TestAckOfALockedStreamDoesNotStopOthers(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	slow := startLogOn(t, log.durable.Config().ConnString())
	users := []string{"stuck"}
	for i := range 20 {
		users = append(users, fmt.Sprint("free", i))
	}
	for _, user := range users {
		log.post(t, user, "x")
	}
	tx, err := log.relaxed.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `SELECT 1 FROM streams WHERE user_id = 'stuck' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	slow.Ack("stuck", 1)
	log.waiting(t, 1)
	for _, user := range users {
		slow.Ack(user, 1)
	}
	for _, user := range users[1:] {
		until(t, "ack of another user is written", func() bool { return log.acked(t, user) == 1 })
	}
	if _, err := tx.Exec(t.Context(), `SELECT 1`); err != nil {
		t.Errorf("the lock was lost meanwhile: %v", err)
	}
	if acked := log.acked(t, "stuck"); acked != 0 {
		t.Errorf("locked stream: acked %d", acked)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "ack of the locked stream is written", func() bool { return log.acked(t, "stuck") == 1 })
}

// Acks that are waiting when the replica stops are written by its last breath.
func TestLastAcksAreWrittenAtTheEnd(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for i := range 5 { // whether the loop sees first that it has to stop is chance
		slow, late := fmt.Sprint("slow", i), fmt.Sprint("late", i)
		log.post(t, slow, "x")
		log.post(t, late, "x")
		t.Run("a replica that stops", func(t *testing.T) {
			stopping := startLogOn(t, log.durable.Config().ConnString())
			release := holdLock(t, log, slow)
			stopping.Ack(slow, 1)
			log.waiting(t, 1)
			stopping.Ack(late, 1)
			t.Cleanup(release) // runs just before the replica is stopped
		})
		if acked := log.acked(t, late); acked != 1 {
			t.Errorf("acked %d", acked)
		}
	}
}
