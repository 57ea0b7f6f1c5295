package events_test

import (
	"testing"
	"time"

	"restante/internal/events"
	"restante/internal/testdb"
)

// A job ends itself in River after it has settled its lane, from memory if need
// be: were the lane forgotten in a crash of Postgres, it would be owed by nobody.
func TestSettledLaneSurvivesACrashOfPostgres(t *testing.T) {
	t.Parallel()
	cluster := testdb.Cluster(t)
	log := startLogOn(t, testdb.Migrated(t, cluster))
	for round := range 3 {
		user := string(rune('a' + round))
		log.post(t, user, "x")
		debt, err := log.Settle(t.Context(), user)
		if err != nil || debt.Lane != events.Parked {
			t.Fatalf("settle: %+v, %v", debt, err)
		}
		if err := cluster.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cluster.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var lane events.Lane
		deadline := time.Now().Add(20 * time.Second)
		for err = log.relaxed.QueryRow(t.Context(), `SELECT lane FROM streams WHERE user_id = $1`, user).Scan(&lane); err != nil; {
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
			err = log.relaxed.QueryRow(t.Context(), `SELECT lane FROM streams WHERE user_id = $1`, user).Scan(&lane)
		}
		if lane != events.Parked {
			t.Errorf("round %d: after the crash the lane is %d, but its job has ended", round, lane)
		}
	}
}
