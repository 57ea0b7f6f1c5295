package coretest_test

import (
	"fmt"
	"testing"
	"time"

	"restante/internal/coretest"
	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func TestCrossReplicaDelivery(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	a := coretest.Start(t, coretest.Options{URL: url, DeliverDelay: time.Minute})
	b := coretest.Start(t, coretest.Options{URL: url, DeliverDelay: time.Minute})
	c := coretest.Connect(t, b, "al", coretest.ClientConfig{})
	introduce(t, a, b)
	for i := range 100 {
		a.Post(t, "al", fmt.Sprint(i))
	}
	if !c.Reaches(100, 5*time.Second) {
		t.Fatalf("reached %d", c.Position())
	}
	for i, r := range c.Received() {
		if r.Seq != int64(i+1) || r.Payload != fmt.Sprintf("%q", fmt.Sprint(i)) {
			t.Fatalf("message %d: %+v", i, r)
		}
	}
}

// introduce makes a know of b, which it would learn from its next heartbeat, seconds
// after the last message was posted; and waits until b listens.
func introduce(t *testing.T, a, b *coretest.Replica) {
	t.Helper()
	beat, err := a.Heart.Beat(t.Context())
	if err != nil || beat.Peers != 1 {
		t.Fatalf("%+v, %v", beat, err)
	}
	a.Fanout.SetPeers(beat.Peers)
	deadline := time.After(10 * time.Second)
	for !b.Fanout.Listening() {
		select {
		case <-deadline:
			t.Fatal("it does not listen")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestJobsAloneDeliver(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	never := func() bool { return true }
	o := coretest.Options{URL: url, DropCommitWake: never, DropNotify: never}
	a, b := coretest.Start(t, o), coretest.Start(t, o)
	c := coretest.Connect(t, b, "al", coretest.ClientConfig{})
	for i := range 20 {
		a.Post(t, "al", fmt.Sprint(i))
	}
	if !c.Reaches(20, 20*time.Second) {
		t.Fatalf("reached %d", c.Position())
	}
}

func TestKilledReplicaLeavesItsRows(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	a := coretest.Start(t, coretest.Options{URL: url})
	b := coretest.Start(t, coretest.Options{URL: url, Sweep: time.Second})
	coretest.Connect(t, a, "al", coretest.ClientConfig{})
	a.Kill()
	var rows int
	if err := b.Relaxed.QueryRow(t.Context(), `SELECT count(*) FROM sessions`).Scan(&rows); err != nil || rows != 1 {
		t.Fatalf("%d session rows, %v", rows, err)
	}
	b.Post(t, "al", "x")
	c := coretest.Connect(t, b, "al", coretest.ClientConfig{})
	if !c.Reaches(1, 5*time.Second) {
		t.Fatalf("reached %d", c.Position())
	}
}
