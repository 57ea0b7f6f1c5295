package torture

import (
	"testing"
	"time"

	"restante/internal/coretest"
	"restante/internal/testdb"
)

// TestHeldStreamStopsNobodyElse: after a lapse every session is attached again,
// which waits for the locks of the streams. One stream that is held for long must
// neither stop the heartbeat, or the lease lapses again, nor keep the others
// unattached.
func TestHeldStreamStopsNobodyElse(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	r := coretest.Start(t, coretest.Options{URL: db.URL, Lease: lease, DeliverDelay: time.Minute})
	held := coretest.Connect(t, r, "held", coretest.ClientConfig{})
	free := coretest.Connect(t, r, "free", coretest.ClientConfig{})

	tx, err := db.Pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if _, err := tx.Exec(t.Context(), `SELECT 1 FROM streams WHERE user_id = 'held' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool.Exec(t.Context(), `TRUNCATE replicas, sessions`); err != nil {
		t.Fatal(err)
	}
	// Long enough for the lease to lapse several times, and for the locks to time
	// out twice: for all together, and for the held one alone.
	attached := func(c *coretest.Client) (yes bool) {
		if err := db.Pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT 1 FROM sessions WHERE session_id = $1)`, c.Session.ID()).Scan(&yes); err != nil {
			t.Fatal(err)
		}
		return yes
	}
	freed := false
	for end := time.Now().Add(6 * time.Second); time.Now().Before(end); pause(20 * time.Millisecond) {
		var age *time.Duration
		if err := db.Pool.QueryRow(t.Context(), `SELECT max(clock_timestamp() - heartbeat_at) FROM replicas`).Scan(&age); err != nil {
			t.Fatal(err)
		}
		if age != nil && *age > lease {
			t.Fatalf("the lease has lapsed while a stream was held: the last heartbeat was %s ago", *age)
		}
		freed = freed || attached(free)
	}
	if !freed {
		t.Error("a user whose stream is free was not attached while another's was held")
	}
	if attached(held) {
		t.Error("the stream was not held")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); !attached(held); pause(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the session was not attached when its stream was free again")
		}
	}
}
