package events_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"restante/internal/events"
)

// The counter-example: a heartbeat that is late, but not later than the lease. A
// job that looks while it is on its way still sees the old one, and parks the
// users of a replica that never notices. So it counts as lapsed before it has.
func TestHeartbeatNoticesALapsedLease(t *testing.T) {
	t.Parallel()
	log := startLog(t) // with a lease of 12 s
	if b := log.beat(t, "one"); !b.Lapsed || b.Peers != 0 {
		t.Errorf("first heartbeat: %+v", b)
	}
	if b := log.beat(t, "one"); b.Lapsed {
		t.Errorf("second heartbeat: %+v", b)
	}
	for ago, lapsed := range map[time.Duration]bool{7 * time.Second: false, 8500 * time.Millisecond: true, 13 * time.Second: true} {
		log.exec(t, `UPDATE replicas SET heartbeat_at = now() - $1::interval WHERE replica_id = 'one'`, ago)
		if b := log.beat(t, "one"); b.Lapsed != lapsed {
			t.Errorf("%v after the last: %+v", ago, b)
		}
		if b := log.beat(t, "one"); b.Lapsed {
			t.Errorf("the heartbeat after that: %+v", b)
		}
	}
	log.exec(t, `TRUNCATE replicas`)
	if b := log.beat(t, "one"); !b.Lapsed {
		t.Errorf("after a crash of Postgres: %+v", b)
	}
}

func TestHeartbeatCountsPeers(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for i, id := range []string{"one", "two", "three"} {
		if b := log.beat(t, id); b.Peers != i {
			t.Errorf("%s: %+v", id, b)
		}
	}
	log.exec(t, `UPDATE replicas SET heartbeat_at = now() - interval '13 s' WHERE replica_id = 'two'`)
	if b := log.beat(t, "one"); b.Peers != 1 {
		t.Errorf("with a dead peer: %+v", b)
	}
	if err := log.Leave(t.Context(), "three"); err != nil {
		t.Fatal(err)
	}
	if b := log.beat(t, "one"); b.Peers != 0 {
		t.Errorf("after a peer has left: %+v", b)
	}
}

func TestLeaveTakesItsSessionsAlong(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for _, id := range []string{"one", "two"} {
		log.beat(t, id)
		log.attachTo(t, id, "session of "+id, "al")
	}
	log.post(t, "al", "x")
	if err := log.Leave(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string][]string{"one": {}, "two": {"session of two"}} {
		if ids, err := log.Attached(t.Context(), id); err != nil || !slices.Equal(ids, want) {
			t.Errorf("%s: %v, %v", id, ids, err)
		}
	}
	if d := log.settle(t, "al"); d.Lane != events.Owed {
		t.Errorf("with a session left: %+v", d)
	}
	if err := log.Leave(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	if d := log.settle(t, "al"); d.Lane != events.Parked {
		t.Errorf("with none left: %+v", d)
	}
}

func TestStreamShowsWhoIsConnected(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	if s, err := log.Stream(t.Context(), "nobody"); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("unknown user: %+v, %v", s, err)
	}
	log.fill(t, "al", 3, 10)
	log.confirm(t, "al", 2)
	if s, err := log.Stream(t.Context(), "al"); err != nil || s.Head != 3 || s.Acked != 2 || len(s.Sessions) != 0 {
		t.Errorf("not connected: %+v, %v", s, err)
	}
	log.beat(t, "one")
	log.attachTo(t, "one", "s1", "al")
	log.attachTo(t, "dead", "s2", "al")
	log.attachTo(t, "one", "s3", "bea")
	s, err := log.Stream(t.Context(), "al")
	if err != nil || len(s.Sessions) != 1 {
		t.Fatalf("connected: %+v, %v", s, err)
	}
	if p := s.Sessions[0]; p.SessionID != "s1" || p.ReplicaID != "one" || p.Transport != "test" || time.Since(p.ConnectedAt) > time.Minute {
		t.Errorf("session: %+v", p)
	}
	if s, err := log.Stream(t.Context(), "bea"); err != nil || s.Head != 0 || len(s.Sessions) != 1 {
		t.Errorf("connected, nothing posted: %+v, %v", s, err)
	}
}

// The quick sweep sees whom a replica may owe something: connected to it, and
// pending.
func TestOwedIsConnectedHereAndPending(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for _, user := range []string{"pending", "elsewhere", "offline", "confirmed", "busy"} {
		log.fill(t, user, 3, 10)
	}
	log.attachTo(t, "one", "s1", "pending")
	log.attachTo(t, "one", "s2", "pending") // a second device is the same user
	log.attachTo(t, "two", "s3", "elsewhere")
	log.attachTo(t, "one", "s4", "confirmed")
	log.attachTo(t, "one", "s5", "nothing")
	log.attachTo(t, "one", "s6", "busy")
	log.confirm(t, "pending", 1)
	log.confirm(t, "confirmed", 3)
	log.confirm(t, "busy", 3)                                              // its lane stays owed for a while
	log.exec(t, `UPDATE streams SET lane = 0 WHERE user_id = 'confirmed'`) // as its job does
	owed, err := log.Owed(t.Context(), "one")
	if want := map[string]events.Position{"pending": {Acked: 1, Head: 3}}; err != nil || !maps.Equal(owed, want) {
		t.Errorf("owed: %v, want %v, %v", owed, want, err)
	}
}

// The sweep finds who has not read everything, and whose ack has not arrived.
func TestBehindFindsWhoNeedsALook(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	var sightings []events.Sighting
	for _, u := range []struct {
		head, acked, position, confirmed int64
	}{
		{5, 5, 5, 5}, // all done
		{5, 5, 4, 4}, // another session was quicker
		{5, 3, 5, 5}, // the ack was lost
		{5, 3, 5, 3}, // waiting for the client
		{5, 5, 5, 2}, // another session has confirmed more
		{5, 5, 9, 9}, // of another epoch: found each time, to no harm
		{0, 0, 0, 0}, // nothing was ever posted
	} {
		user := fmt.Sprint("user", len(sightings))
		if u.head > 0 {
			log.fill(t, user, int(u.head), 10)
		}
		if u.acked > 0 {
			log.confirm(t, user, u.acked)
		}
		sightings = append(sightings, events.Sighting{UserID: user, Position: u.position, Confirmed: u.confirmed})
	}
	behind, err := log.Behind(t.Context(), sightings)
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(behind, func(a, b events.Head) int { return int(a.UserID[4]) - int(b.UserID[4]) })
	if want := []events.Head{{UserID: "user1", Seq: 5}, {UserID: "user2", Seq: 5}, {UserID: "user5", Seq: 5}}; !slices.Equal(behind, want) {
		t.Errorf("behind: %v, want %v", behind, want)
	}
}
