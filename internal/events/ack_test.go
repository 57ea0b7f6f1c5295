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
	log.exec(t, `CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no acks now'; END $$`)
	log.exec(t, `CREATE TRIGGER fail BEFORE UPDATE ON streams EXECUTE FUNCTION fail()`)
	slow.Ack("al", 2)
	until(t, "a flush has failed", func() bool { return metric(t, metrics, "restante_ack_flush_errors_total") > 0 })
	slow.Ack("al", 1) // must not replace what failed
	log.exec(t, `DROP TRIGGER fail ON streams`)
	until(t, "ack is written", func() bool { return log.acked(t, "al") == 2 })
}

// The counter-example: acks are written in one statement, in the order of user ids.
// It waits for the stream that somebody keeps locked, and holds those before it, for
// which the appends wait. What is locked stays aside, is confirmed further
// meanwhile, and written when it is free.
func TestAckOfALockedStreamHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	slow, metrics := measured(t, log.durable.Config().ConnString())
	var users []string
	for i := range 20 {
		users = append(users, fmt.Sprint("a", i), fmt.Sprint("z", i))
	}
	locked := []string{"m1", "m2", "m3"}
	for range 3 {
		for _, user := range append(users, locked...) {
			log.post(t, user, "x")
		}
	}
	hold := log.lockAll(t, locked...)
	for _, seq := range []int64{1, 2, 3} {
		for _, user := range append(users, locked...) {
			slow.Ack(user, seq)
		}
		for _, user := range users {
			until(t, "ack of another user is written", func() bool { return log.acked(t, user) == seq })
		}
	}
	// Whoever waits for a stream now holds no other.
	log.waiting(t, 1)
	for range 20 {
		var free int
		if err := log.relaxed.QueryRow(t.Context(), `SELECT count(*) FROM (SELECT FROM streams WHERE user_id <> ALL ($1) FOR UPDATE SKIP LOCKED) s`,
			locked).Scan(&free); err != nil || free != len(users) {
			t.Fatalf("%d of %d other streams are free, %v", free, len(users), err)
		}
	}
	for _, user := range locked {
		if acked := log.acked(t, user); acked != 0 {
			t.Errorf("%s: acked %d", user, acked)
		}
	}
	if n := metric(t, metrics, "restante_ack_streams_locked_total"); n < 3 || n > 6 {
		t.Errorf("%v streams were found locked, want each once or, in case of a second flush, twice", n)
	}
	if n := metric(t, metrics, "restante_ack_flush_errors_total"); n > 0 {
		t.Errorf("%v flushes failed", n)
	}
	hold()
	for _, user := range locked {
		until(t, "ack of the locked stream is written", func() bool { return log.acked(t, user) == 3 })
	}
}

// The counter-example: a stream under traffic. There is always somebody who has it
// locked and somebody who waits for it; who only looks whether it is free
// at the moment never gets it.
func TestAckOfABusyStreamIsWritten(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for range 2 {
		log.post(t, "busy", "x")
	}
	release := log.lockAll(t, "busy")
	log.Ack("busy", 2)
	log.blocked(t, 1, `wait_event_type = 'Lock' AND query LIKE 'UPDATE streams SET acked%'`)
	release()
	until(t, "ack is written", func() bool { return log.acked(t, "busy") == 2 })
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
