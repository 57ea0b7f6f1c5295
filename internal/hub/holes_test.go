package hub_test

import (
	"testing"
	"time"

	"restante/internal/coretest"
	"restante/internal/events"
	"restante/internal/testdb"
)

// On a replica of the whole core, with what makes up for one loss taken away for
// all others.

func never() bool { return true } // as a Drop…: it never gets through

// The counter-example: Postgres crashes and the unlogged tables are empty, while
// the sockets live. The delivery job finds nobody connected and parks the user;
// from then on appends insert no job.
func TestEmptiedTablesDoNotStrandAConnectedUser(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	r := coretest.Start(t, coretest.Options{URL: db.URL, DropCommitWake: never, DropNotify: never, Lease: 8 * time.Second})
	c := coretest.Connect(t, r, "al", coretest.ClientConfig{})
	if _, err := db.Pool.Exec(t.Context(), `TRUNCATE sessions, replicas`); err != nil {
		t.Fatal(err)
	}
	r.Post(t, "al", "x")
	// A heartbeat is due every 2 s; the comparison of rows comes after 16.
	if !c.Reaches(1, 8*time.Second) {
		t.Fatalf("reached %d", c.Position())
	}
	until(t, "the lane is idle", func() bool {
		var lane events.Lane
		if err := db.Pool.QueryRow(t.Context(), `SELECT lane FROM streams WHERE user_id = 'al'`).Scan(&lane); err != nil {
			t.Fatal(err)
		}
		return lane == events.Idle
	})
}

// The counter-example: two devices of one user. The first confirms, the second
// has missed its wake; the durable position says that all is done, and the job
// ends. Only the sweep still sees the second one.
func TestSecondDeviceIsServedByTheSweep(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	a := coretest.Start(t, coretest.Options{URL: db.URL, DeliverDelay: time.Minute})
	b := coretest.Start(t, coretest.Options{URL: db.URL, DeliverDelay: time.Minute, DropHeard: never, Sweep: 300 * time.Millisecond})
	first := coretest.Connect(t, a, "al", coretest.ClientConfig{})
	second := coretest.Connect(t, b, "al", coretest.ClientConfig{})
	for i := range int64(5) {
		a.Post(t, "al", "x")
		for _, c := range []*coretest.Client{first, second} {
			if !c.Reaches(i+1, 10*time.Second) {
				t.Fatalf("reached %d", c.Position())
			}
		}
	}
}

// The counter-example: the last ack before a crash was lost. The client has
// nothing to confirm any more; the job snoozes for ever, and the user's message
// counts as pending.
func TestLostAckEndsTheDeliveryJobAllTheSame(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	r := coretest.Start(t, coretest.Options{URL: db.URL, DropCommitWake: never, DropNotify: never})
	c := coretest.Connect(t, r, "al", coretest.ClientConfig{})
	for {
		seq := r.Post(t, "al", "x")
		if !c.Reaches(seq, 10*time.Second) {
			t.Fatalf("reached %d", c.Position())
		}
		until(t, "the ack is written", func() bool { return acked(t, db) == seq })
		// A lane that is idle already had its ack on disk before: the log is a prefix.
		tag, err := db.Pool.Exec(t.Context(), `UPDATE streams SET acked = 0 WHERE lane = 1`)
		if err != nil {
			t.Fatal(err)
		}
		if tag.RowsAffected() == 1 {
			until(t, "the ack is written again", func() bool { return acked(t, db) == seq })
			return
		}
	}
}

func acked(t *testing.T, db *testdb.Database) (seq int64) {
	t.Helper()
	if err := db.Pool.QueryRow(t.Context(), `SELECT acked FROM streams WHERE user_id = 'al'`).Scan(&seq); err != nil {
		t.Fatal(err)
	}
	return seq
}

// The counter-example: a session's row outlives it. Its user never parks, and
// every few seconds the job looks again, for ever.
func TestLeftOverSessionRowIsRemoved(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	r := coretest.Start(t, coretest.Options{URL: db.URL, Lease: time.Second})
	if _, err := r.Log.Attach(t.Context(), events.Session{ID: "gone", UserID: "al", ReplicaID: r.ID, Transport: "test", ConnectedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	r.Post(t, "al", "x")
	until(t, "the user is parked", func() bool {
		var lane events.Lane
		if err := db.Pool.QueryRow(t.Context(), `SELECT lane FROM streams WHERE user_id = 'al'`).Scan(&lane); err != nil {
			t.Fatal(err)
		}
		return lane == events.Parked
	})
}

// The counter-example: a read is cut off with its connection, the wake is used
// up, and nothing else ever comes.
func TestBrokenConnectionsDoNotStrandAReader(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	r := coretest.Start(t, coretest.Options{URL: db.URL, NoJobs: true})
	c := coretest.Connect(t, r, "al", coretest.ClientConfig{})
	poster := coretest.Start(t, coretest.Options{URL: db.URL, NoJobs: true}) // so that r reads from Postgres
	var want int64
	for range 5 {
		if _, err := db.Pool.Exec(t.Context(), `SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity a
			WHERE datname = current_database() AND application_name = 'restante' AND pid <> pg_backend_pid()`); err != nil {
			t.Fatal(err)
		}
		until(t, "a message is posted", func() bool {
			receipts, err := poster.Log.Append(t.Context(), []events.Message{{UserID: "al", Payload: []byte(`1`), Publisher: "test", TTL: time.Hour}})
			if err == nil {
				want = receipts[0].Seq
			}
			return err == nil
		})
		if !c.Reaches(want, 10*time.Second) {
			t.Fatalf("reached %d of %d", c.Position(), want)
		}
	}
}

// The counter-example: a sweep finds a session far behind, and says only that it
// should look. One page is not all there is.
func TestLookGoesOnToTheHead(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	r := coretest.Start(t, coretest.Options{URL: db.URL, NoJobs: true, DropCommitWake: never, DropNotify: never, Sweep: 5 * time.Second})
	c := coretest.Connect(t, r, "al", coretest.ClientConfig{})
	for range 1500 / 100 {
		var msgs []events.Message
		for range 100 {
			msgs = append(msgs, events.Message{UserID: "al", Payload: []byte(`"x"`), Publisher: "test", TTL: time.Hour})
		}
		if _, err := r.Log.Append(t.Context(), msgs); err != nil {
			t.Fatal(err)
		}
	}
	r.Hub.Resync(t.Context())
	if !c.Reaches(1500, 4*time.Second) {
		t.Errorf("reached %d of 1500 after one look", c.Position())
	}
}
