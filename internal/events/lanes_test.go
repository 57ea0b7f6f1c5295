package events_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/testdb"
)

// beat gives a replica a lease, as its heartbeat would.
func (r *replica) beat(t *testing.T, replicaID string) events.Beat {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), r.relaxed.Config().ConnConfig.Copy())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	b, err := r.Heartbeat(t.Context(), conn, replicaID, "test")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func session(id, user string) events.Session {
	return events.Session{ID: id, UserID: user, ReplicaID: "one", Transport: "test", ConnectedAt: time.Now()}
}

func (r *replica) attach(t *testing.T, id, user string) events.Position {
	t.Helper()
	at, err := r.Attach(t.Context(), session(id, user))
	if err != nil {
		t.Fatal(err)
	}
	return at[user]
}

func (r *replica) settle(t *testing.T, user string) events.Debt {
	t.Helper()
	debt, err := r.Settle(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return debt
}

// endJobs marks every delivery job as completed, as River does some time after
// its worker has returned.
func (r *replica) endJobs(t *testing.T) {
	t.Helper()
	r.exec(t, `UPDATE river_job SET state = 'completed', finalized_at = now() WHERE finalized_at IS NULL`)
}

// confirm acknowledges up to seq, and waits until that is written.
func (r *replica) confirm(t *testing.T, user string, seq int64) {
	t.Helper()
	r.Ack(user, seq)
	until(t, "ack is written", func() bool { return r.acked(t, user) == seq })
}

// acked returns a user's confirmed position as it stands in the database.
func (r *replica) acked(t *testing.T, user string) int64 {
	t.Helper()
	s, err := r.Stream(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return s.Acked
}

func (r *replica) wantLane(t *testing.T, when, user string, lane events.Lane, jobs int) {
	t.Helper()
	if l, n := r.lane(t, user); l != lane || n != jobs {
		t.Errorf("%s: lane %d with %d unfinished jobs, want %d with %d", when, l, n, lane, jobs)
	}
}

func TestLaneFollowsDelivery(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.post(t, "al", "x") // nobody knows yet who is connected: the lane is owed
	log.beat(t, "one")
	log.post(t, "al", "y")
	log.wantLane(t, "after appends", "al", events.Owed, 1)

	if d := log.settle(t, "al"); d.Lane != events.Parked || d.Duplicate {
		t.Errorf("job, nobody connected: %+v", d)
	}
	log.endJobs(t)
	log.post(t, "al", "z")
	log.wantLane(t, "append for somebody who is away", "al", events.Parked, 0)

	if at := log.attach(t, "s1", "al"); at != (events.Position{Acked: 0, Head: 3}) {
		t.Errorf("attached at %+v", at)
	}
	log.wantLane(t, "connected", "al", events.Owed, 1)
	if d := log.settle(t, "al"); d.Lane != events.Owed || d.Duplicate || d.PendingFor <= 0 {
		t.Errorf("job, connected: %+v", d)
	}
	log.confirm(t, "al", 3)
	if d := log.settle(t, "al"); d.Lane != events.Idle || d.Duplicate || d.PendingFor != 0 {
		t.Errorf("job, all confirmed: %+v", d)
	}
	log.wantLane(t, "delivered", "al", events.Idle, 1) // River completes the job later
}

// What nobody waits for is owed by no job: 300,000 messages for users who never
// existed made 300,000 jobs, and those of everybody else ran ten minutes late.
func TestAppendForWhoIsAwayMakesNoJob(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.known(t, "before")
	log.post(t, "before", "x")
	log.wantLane(t, "no replica has told who is connected", "before", events.Owed, 1)

	log.beat(t, "one")
	if _, err := log.Append(t.Context(), []events.Message{message("new", "x"), message("new", "y")}); err != nil {
		t.Fatal(err)
	}
	log.wantLane(t, "never connected", "new", events.Parked, 0)
	log.attach(t, "s1", "al")
	log.wantLane(t, "connected", "al", events.Idle, 0)
	if _, err := log.Append(t.Context(), []events.Message{message("al", "x"), message("al", "y")}); err != nil {
		t.Fatal(err)
	}
	log.wantLane(t, "appended for who is connected", "al", events.Owed, 1)
	log.confirm(t, "al", 2)
	log.exec(t, `UPDATE events SET created_at = created_at - interval '2 minutes'`)
	log.settle(t, "al")
	log.endJobs(t)
	if err := log.Detach(t.Context(), "s1"); err != nil {
		t.Fatal(err)
	}
	log.post(t, "al", "z")
	log.wantLane(t, "appended for who has left", "al", events.Parked, 0)
	log.attach(t, "s2", "al")
	log.wantLane(t, "connected again", "al", events.Owed, 1)
}

// The counter-example: the append looks for sessions in the statement that takes the
// lock. It waits for a connect that is about to commit, looks with the snapshot from
// before, and parks the lane of a user who is online (I3).
func TestAppendSeesTheConnectItWaitedFor(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	slow := startLogOn(t, url, patient(t, url))
	log.beat(t, "one")
	log.known(t, "al")
	gate := log.shut(t, "sessions")
	attached := doing(func() (map[string]events.Position, error) { return slow.Attach(t.Context(), session("s1", "al")) })
	log.held(t, 1)
	appended := appending(t, slow, "al")
	log.waiting(t, 1)
	gate.open()
	get(t, "attach", attached)
	get(t, "append", appended)
	log.wantLane(t, "connected, one pending", "al", events.Owed, 1)
}

// The counter-example: delivery jobs and connects of users whose streams somebody keeps
// locked wait for two seconds each, and take all workers and connections.
func TestLockedStreamsDoNotHoldUpJobsAndConnectsOfOthers(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	stuck := many("stuck", 20)
	log.known(t, append(stuck, "z")...)
	log.exec(t, `UPDATE streams SET lane = 1, head = 1`)
	log.beat(t, "one")
	release := log.lockAll(t, stuck...)
	for _, user := range stuck {
		if d := log.settle(t, user); !d.Locked || d.Lane != events.Owed {
			t.Errorf("job of a locked stream: %+v", d)
		}
	}
	var waiting []<-chan result[map[string]events.Position]
	for _, user := range stuck {
		waiting = append(waiting, doing(func() (map[string]events.Position, error) {
			return log.Attach(t.Context(), session("of "+user, user))
		}))
	}
	log.waiting(t, 2)
	for i := range 10 { // the pool has four connections
		log.attach(t, fmt.Sprint("s", i), "z")
	}
	// Each connect tries for a moment before it waits its turn.
	until(t, "two connections at most wait for locks", func() bool { return log.backends(t, `wait_event_type = 'Lock'`) <= 2 })
	// Sessions that are attached together are not kept from it, or they do not hold what
	// they have locked.
	start := time.Now()
	if _, err := log.Attach(t.Context(), session("a", "a"), session("b", stuck[0])); !errors.Is(err, events.ErrUnavailable) || time.Since(start) > 1500*time.Millisecond {
		t.Errorf("several, one of them locked: %v after %v", err, time.Since(start))
	}
	release()
	attached := 0
	for _, done := range waiting {
		if r := <-done; r.err == nil {
			attached++
		}
	}
	if attached == 0 {
		t.Error("nobody was attached when the streams were free")
	}
}

// The counter-example: nobody is connected and the job parks the lane; then the
// ack of the last event arrives late; then the user connects. If connecting with
// nothing pending leaves the lane parked, appends insert no job from then on: the
// user is online, and nobody owes anything.
func TestConnectWithNothingPendingEndsParking(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.post(t, "al", "x") // nobody knows yet who is connected: the lane is owed
	log.beat(t, "one")
	log.settle(t, "al")
	log.endJobs(t)
	log.confirm(t, "al", 1)
	log.wantLane(t, "confirmed after parking", "al", events.Parked, 0)

	log.attach(t, "s1", "al")
	log.wantLane(t, "connected", "al", events.Idle, 0)
	log.post(t, "al", "y")
	log.wantLane(t, "appended", "al", events.Owed, 1)
}

// The counter-example: a user with something pending whose connection flaps. A
// job per connect, each of which snoozes until all is confirmed, are a dozen jobs
// that do the same.
func TestReconnectsLeaveOneDeliveryJob(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.post(t, "al", "x") // nobody knows yet who is connected: the lane is owed
	log.beat(t, "one")
	for i := range 11 {
		log.attach(t, fmt.Sprint("s", i), "al")
	}
	log.wantLane(t, "after eleven connects", "al", events.Owed, 1)
}

// The counter-example: the first append and the first connect of a user at the
// same time. Locking the user's stream locks nothing, for there is none; the
// append does not see the session, the connect does not see the event, and the
// delivery job parks a user who is online.
func TestFirstConnectAndFirstAppendSeeEachOther(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	slow := startLogOn(t, url, patient(t, url))
	log.beat(t, "one")
	gate := log.shut(t, "sessions")
	attached := doing(func() (map[string]events.Position, error) { return slow.Attach(t.Context(), session("s1", "al")) })
	log.held(t, 1)

	appended := doing(func() ([]events.Receipt, error) {
		return slow.Append(t.Context(), []events.Message{message("al", "x")})
	})
	var done bool
	until(t, "append waits for the connect, or is through", func() bool {
		done = len(appended) > 0
		return done || log.backends(t, `wait_event_type = 'Lock' AND wait_event <> 'advisory'`) > 0
	})
	if done {
		log.settle(t, "al") // its job is quick
	}
	gate.open()
	get(t, "attach", attached)
	get(t, "append", appended)
	log.wantLane(t, "connected, one pending", "al", events.Owed, 1)
	if d := log.settle(t, "al"); d.Lane != events.Owed {
		t.Errorf("job: %+v", d)
	}
}

// Only what Settle would leave owed may be called still owed; the rest is for
// Settle to decide.
func TestStillOwedIsWhatSettleLeaves(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.beat(t, "one")
	still := func(user string) bool {
		t.Helper()
		debt, owed, err := log.StillOwed(t.Context(), user)
		if err != nil || owed && (debt.Lane != events.Owed || debt.Busy == (debt.PendingFor > 0) || debt.PendingFor > time.Minute) {
			t.Fatalf("%s: %+v, %v", user, debt, err)
		}
		return owed
	}
	log.post(t, "al", "x")
	if still("al") || still("nobody") {
		t.Error("nobody is connected: the lane has to be parked")
	}
	log.attach(t, "s1", "al")
	if !still("al") {
		t.Error("connected, one pending")
	}
	log.exec(t, `UPDATE replicas SET heartbeat_at = now() - interval '13 seconds'`)
	if still("al") {
		t.Error("the replica is dead: the lane has to be parked")
	}
	log.beat(t, "one")
	log.exec(t, `UPDATE streams SET lane = 2`)
	if still("al") {
		t.Error("a duplicate job has to end")
	}
	log.exec(t, `UPDATE streams SET lane = 1`)
	log.confirm(t, "al", 1)
	if still("al") {
		t.Error("one event, and it was delivered: the lane has to become idle")
	}
	log.post(t, "al", "y")
	if !still("al") {
		t.Error("connected, one pending")
	}
	log.confirm(t, "al", 2)
	if !still("al") {
		t.Error("the second event came just now: the lane is busy")
	}
	log.exec(t, `UPDATE events SET created_at = created_at - interval '1 minute'`)
	if still("al") {
		t.Error("no event for six delivery delays: the lane has to become idle")
	}
}

// The counter-example: a reconnect makes a busy lane idle, the next event turns it
// and brings another job, and the one before stays as well, since the lane is owed
// and busy: a job more with every reconnect.
func TestReconnectsOfABusyUserLeaveOneJob(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.beat(t, "one")
	log.attach(t, "s0", "al")
	log.post(t, "al", "x")
	for i := range 5 {
		seq := log.post(t, "al", "y")
		log.confirm(t, "al", seq)
		if _, owed, err := log.StillOwed(t.Context(), "al"); err != nil || !owed {
			t.Fatalf("the lane is not busy: %v", err)
		}
		log.attach(t, fmt.Sprint("s", i+1), "al")
		if lane, jobs := log.lane(t, "al"); lane != events.Owed || jobs != 1 {
			t.Fatalf("after %d reconnects: lane %d, %d jobs", i+1, lane, jobs)
		}
	}
}

// The counter-example: the oldest pending event, asked for in a join with LIMIT 1,
// costs a read of every event that the user has had within the retention.
func TestLookDoesNotReadWhatWasDelivered(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	conn := open(t, url, func(url string, _ int) (*pgxpool.Config, error) { return database.RelaxedConfig(url, 1) })
	t.Cleanup(conn.Close)
	log := startLogOn(t, url, func(c *events.Config) { c.Relaxed = conn })
	log.post(t, "al", "x") // nobody knows yet who is connected: the lane is owed
	log.beat(t, "one")
	log.attach(t, "s1", "al")
	log.exec(t, `INSERT INTO events (user_id, seq, payload, publisher, expires_at)
		SELECT 'al', i, '1', 'p', now() + interval '1 hour' FROM generate_series(2, 20001) i`)
	log.exec(t, `UPDATE streams SET head = 20001, acked = 20000`)
	log.exec(t, `ANALYZE events, streams`)
	// The connection's own count of the events it has read.
	read := func() (rows int64) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), `SELECT pg_stat_force_next_flush()`); err != nil {
			t.Fatal(err)
		}
		if err := conn.QueryRow(t.Context(), `SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'events'`).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		return rows
	}
	before := read()
	for range 10 { // the plan is made for good after the fifth
		if debt, owed, err := log.StillOwed(t.Context(), "al"); err != nil || !owed || debt.PendingFor <= 0 {
			t.Fatalf("%+v, %v, %v", debt, owed, err)
		}
		if debt := log.settle(t, "al"); debt.Lane != events.Owed || debt.PendingFor <= 0 {
			t.Fatalf("%+v", debt)
		}
	}
	if rows := read() - before; rows < 20 || rows > 100 {
		t.Errorf("%d events read in 20 looks", rows)
	}
}

// The counter-example: the job looks for sessions while a connect is about to commit,
// with a snapshot from before: nobody there, park. It leaves the lane alone instead, and
// looks again.
func TestJobSeesTheConnectThatHasTheLock(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	slow := startLogOn(t, url, patient(t, url))
	log.post(t, "al", "x") // nobody knows yet who is connected: the lane is owed
	log.beat(t, "one")
	gate := log.shut(t, "sessions")
	attached := doing(func() (map[string]events.Position, error) { return slow.Attach(t.Context(), session("s1", "al")) })
	log.held(t, 1)
	if d := log.settle(t, "al"); !d.Locked || d.Lane != events.Owed {
		t.Errorf("job during a connect: %+v", d)
	}
	gate.open()
	get(t, "attach", attached)
	if d := log.settle(t, "al"); d.Lane != events.Owed || d.Locked {
		t.Errorf("job after the connect: %+v", d)
	}
	log.wantLane(t, "connected, one pending", "al", events.Owed, 1)
}

// The counter-example: connecting turns a parked lane, and does not wait for a
// job that is just parking it: what it sees is a lane that is still owed.
func TestConnectWaitsForTheJobThatParks(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	slow := startLogOn(t, url, patient(t, url))
	log.post(t, "al", "x") // nobody knows yet who is connected: the lane is owed
	log.beat(t, "one")
	gate := log.shut(t, "streams")
	settled := doing(func() (events.Debt, error) { return slow.Settle(t.Context(), "al") })
	log.held(t, 1)
	attached := doing(func() (map[string]events.Position, error) { return slow.Attach(t.Context(), session("s1", "al")) })
	until(t, "connect waits, or is through", func() bool {
		return len(attached) > 0 || log.backends(t, `wait_event_type = 'Lock'`) > 1
	})
	gate.open()
	if d := get(t, "settle", settled); d.Lane != events.Parked {
		t.Errorf("job: %+v", d)
	}
	get(t, "attach", attached)
	log.endJobs(t) // the one that parked
	if lane, _ := log.lane(t, "al"); lane != events.Owed {
		t.Errorf("connected, one pending: lane %d", lane)
	}
}

// The counter-example: a job that River ran twice, or rescued, comes after the
// lane was settled and another job owes it. It must leave the lane alone.
func TestDuplicateJobChangesNothing(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.post(t, "al", "x") // nobody knows yet who is connected: the lane is owed
	log.beat(t, "one")
	log.settle(t, "al")
	if d := log.settle(t, "al"); !d.Duplicate || d.Lane != events.Parked {
		t.Errorf("second look at a parked lane: %+v", d)
	}
	log.confirm(t, "al", 1)
	if d := log.settle(t, "al"); !d.Duplicate || d.Lane != events.Parked {
		t.Errorf("second look at a parked lane, nothing pending: %+v", d)
	}
	log.attach(t, "s1", "al")
	if d := log.settle(t, "al"); !d.Duplicate || d.Lane != events.Idle {
		t.Errorf("look at an idle lane: %+v", d)
	}
	if d := log.settle(t, "nobody"); !d.Duplicate {
		t.Errorf("look at a user who is gone: %+v", d)
	}
}

// The counter-example: one message in every few seconds, each confirmed at once.
// If confirming made the lane idle, each message would cost a job.
func TestMessagesWithinOneDelayShareAJob(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.beat(t, "one")
	log.attach(t, "s1", "al")
	for range 20 {
		log.confirm(t, "al", log.post(t, "al", "x"))
	}
	var jobs int
	if err := log.relaxed.QueryRow(t.Context(), `SELECT count(*) FROM river_job WHERE kind = 'deliver'`).Scan(&jobs); err != nil || jobs != 1 {
		t.Errorf("%d delivery jobs for 20 messages, %v", jobs, err)
	}
}

// A session counts only while its replica's lease is good.
func TestJobParksWhenOnlyDeadReplicasHaveSessions(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.beat(t, "one")
	log.attach(t, "s1", "al")
	log.post(t, "al", "x")
	log.exec(t, `UPDATE replicas SET heartbeat_at = now() - interval '11 s'`)
	if d := log.settle(t, "al"); d.Lane != events.Owed {
		t.Errorf("within the lease: %+v", d)
	}
	log.exec(t, `UPDATE replicas SET heartbeat_at = now() - interval '13 s'`)
	if d := log.settle(t, "al"); d.Lane != events.Parked {
		t.Errorf("after the lease: %+v", d)
	}
}

// The counter-example: the row of a session that is gone. As long as it stands
// the lane cannot park, and the user's job looks every few seconds, for ever.
func TestDetachedSessionLetsItsUserPark(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.post(t, "al", "x") // nobody knows yet who is connected: the lane is owed
	log.beat(t, "one")
	log.attach(t, "s1", "al")
	log.attach(t, "s2", "al")
	if err := log.Detach(t.Context(), "s1", "unknown"); err != nil {
		t.Fatal(err)
	}
	if d := log.settle(t, "al"); d.Lane != events.Owed {
		t.Errorf("one session left: %+v", d)
	}
	if err := log.Detach(t.Context(), "s2"); err != nil {
		t.Fatal(err)
	}
	if d := log.settle(t, "al"); d.Lane != events.Parked {
		t.Errorf("no session left: %+v", d)
	}
}
