package events_test

import (
	"testing"
	"time"

	"restante/internal/events"
)

// begins returns where a session of a user begins.
func (r *replica) begins(t *testing.T, user string) int64 {
	t.Helper()
	at, err := r.Attach(t.Context(), events.Session{ID: "s-" + user, UserID: user, ReplicaID: "r", Transport: "test", ConnectedAt: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return at[user].Acked
}

// The counter-example: a client has confirmed 10, and 11 to 15 expire while it is
// away. Before the trim it is told so; after it, its session begins at 15.
func TestSessionsBeginWhereClientsHaveConfirmed(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	ways := map[string]func(user string){
		"read":        func(user string) { log.read(t, user, 10) },
		"trim":        func(string) { log.trim(t) },
		"trim, twice": func(user string) { log.trim(t); log.fill(t, user, 1, 10); log.expire(t, user, 16); log.trim(t) },
		"range":       func(user string) { log.lengthen(t, user, 10_000); log.readOn(t, user, 10, 10_000, 3) },
	}
	for user, lose := range ways {
		log.fill(t, user, 15, 10)
		log.confirm(t, user, 10)
		log.expire(t, user, 11, 12, 13, 14, 15)
		lose(user)
		stream, err := log.Stream(t.Context(), user)
		if err != nil || stream.Acked != stream.Head {
			t.Errorf("%s: %+v, %v", user, stream, err)
		}
		for range 2 { // until it is confirmed
			if at := log.begins(t, user); at != 10 {
				t.Errorf("%s: the session begins at %d", user, at)
			}
		}
		if page := log.read(t, user, 10); len(page.Events) > 0 || page.Through != stream.Head {
			t.Errorf("%s: read %s", user, seqs(page))
		}
		// A client that was sent 12 in time may confirm it late.
		log.Ack(user, 12)
		until(t, "12 is confirmed", func() bool { return log.begins(t, user) == 12 })
		// What comes next is read at once, from there.
		seq := log.post(t, user, "next")
		if page := log.read(t, user, 12); len(page.Events) != 1 || page.Events[0].Seq != seq {
			t.Errorf("%s: read %s", user, seqs(page))
		}
		if user == "trim" {
			log.Ack(user, stream.Head) // the gap's end
			until(t, "the gap is confirmed", func() bool { return log.begins(t, user) == stream.Head })
		}
		log.Ack(user, seq)
		until(t, "what came next is confirmed", func() bool { return log.begins(t, user) == seq })
		if n := log.number(t, `SELECT count(*) FROM streams WHERE user_id = $1 AND confirmed IS NOT NULL`, user); n != 0 {
			t.Errorf("%s: confirmed is kept", user)
		}
	}
}

// The release before moves acked and does not know confirmed. What a client has
// confirmed through it is not told as a gap, and not sent again.
func TestConfirmedThroughTheReleaseBefore(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.fill(t, "al", 20, 10)
	log.confirm(t, "al", 10)
	log.expire(t, "al", 11, 12)
	log.trim(t)
	log.exec(t, `UPDATE streams SET acked = 15 WHERE user_id = 'al'`)
	if at := log.begins(t, "al"); at != 15 {
		t.Errorf("the session begins at %d", at)
	}
	// A session that stood at 12 meanwhile still gets what another has confirmed.
	if got := seqs(log.read(t, "al", 12)); got != "13 14 15 16 17 18 19 20 through 20" {
		t.Errorf("read %s", got)
	}
	log.expire(t, "al", 16)
	log.trim(t)
	if at := log.begins(t, "al"); at != 15 {
		t.Errorf("the session begins at %d", at)
	}
	log.confirm(t, "al", 20)
	if at := log.begins(t, "al"); at != 20 {
		t.Errorf("the session begins at %d", at)
	}
}
