package hub_test

import (
	"fmt"
	"testing"
	"time"

	"restante/internal/coretest"
	"restante/internal/testdb"
)

// The counter-example: a client has confirmed 10, and what comes next expires while
// it is away. It was told so only if it came back before the trim.
func TestClientThatComesBackIsToldOfWhatExpired(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	r := coretest.Start(t, coretest.Options{URL: db.URL, NoJobs: true})
	first := coretest.Connect(t, r, "al", coretest.ClientConfig{})
	for range 10 {
		r.Post(t, "al", "x")
	}
	if !first.Reaches(10, 10*time.Second) {
		t.Fatalf("reached %d", first.Position())
	}
	until(t, "the acks are written", func() bool { return acked(t, db) == 10 })
	first.Disconnect()
	for range 5 {
		r.Post(t, "al", "x")
	}
	if _, err := db.Pool.Exec(t.Context(), `UPDATE events SET expires_at = now() WHERE seq > 10`); err != nil {
		t.Fatal(err)
	}
	come := func(when string, want string, head, confirm int64) {
		t.Helper()
		c := coretest.Connect(t, r, "al", coretest.ClientConfig{})
		if !c.Reaches(head, 10*time.Second) {
			t.Errorf("%s: reached %d", when, c.Position())
		}
		if got := fmt.Sprint(c.Received()); got != want {
			t.Errorf("%s: received %s, want %s", when, got, want)
		}
		if confirm > 0 {
			if err := c.Confirm(confirm); err != nil {
				t.Error(err)
			}
		}
		c.Disconnect()
	}
	confirmed := func(seq int64) {
		t.Helper()
		until(t, fmt.Sprint(seq, " is confirmed"), func() (done bool) {
			if err := db.Pool.QueryRow(t.Context(), `SELECT coalesce(confirmed, acked) = $1 FROM streams`, seq).Scan(&done); err != nil {
				t.Fatal(err)
			}
			return done
		})
	}
	if _, err := r.Log.Trim(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	come("after the trim", "[{11 15 }]", 15, 0)
	come("once more", "[{11 15 }]", 15, 12) // it had been sent 12 in time
	confirmed(12)
	come("12 is confirmed", "[{13 15 }]", 15, 15)
	confirmed(15)
	r.Post(t, "al", "next")
	come("the gap is confirmed", `[{16 0 "next"}]`, 16, 16)
	confirmed(16)
}
