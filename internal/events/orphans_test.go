package events_test

import (
	"testing"
	"time"

	"restante/internal/events"
)

// jobStates returns the states of a user's delivery jobs, in order of insertion.
func (r *replica) jobStates(t *testing.T, user string) (states []string) {
	t.Helper()
	err := r.relaxed.QueryRow(t.Context(), `SELECT coalesce(array_agg(state::text ORDER BY id), '{}') FROM river_job
		WHERE args->>'user_id' = $1`, user).Scan(&states)
	if err != nil {
		t.Fatal(err)
	}
	return states
}

// runs marks a user's job as running on a replica since some time ago.
func (r *replica) runs(t *testing.T, user, replicaID string, since time.Duration) {
	t.Helper()
	r.exec(t, `UPDATE river_job SET state = 'running', attempted_by = ARRAY['an earlier one', $2], attempted_at = now() - $3::interval, attempt = attempt + 1
		WHERE args->>'user_id' = $1`, user, replicaID, since)
}

// The counter-example: a replica dies between taking a job and ending it. The
// lane says owed, the job says running, and nobody works; River itself notices
// after a minute or more.
func TestJobOfADeadReplicaIsPutBack(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for _, user := range []string{"of the dead", "of the living", "of the unknown"} {
		log.post(t, user, "x")
	}
	log.beat(t, "dead")
	log.attachTo(t, "dead", "s1", "of the dead")
	log.beat(t, "living")
	log.attachTo(t, "living", "s2", "of the living")
	log.attachTo(t, "never there", "s3", "of the unknown")
	log.exec(t, `UPDATE replicas SET heartbeat_at = now() - interval '13 s' WHERE replica_id = 'dead'`)
	log.runs(t, "of the dead", "dead", time.Second)
	log.runs(t, "of the living", "living", time.Second)
	log.runs(t, "of the unknown", "never there", time.Second)

	replicas, jobs, err := log.Reap(t.Context())
	if err != nil || replicas != 1 || jobs != 2 {
		t.Errorf("reaped %d replicas, %d jobs, %v", replicas, jobs, err)
	}
	for user, want := range map[string]string{"of the dead": "available", "of the living": "running", "of the unknown": "available"} {
		if states := log.jobStates(t, user); len(states) != 1 || states[0] != want {
			t.Errorf("job %s: %v, want %s", user, states, want)
		}
	}
	for id, want := range map[string]int{"dead": 0, "living": 1, "never there": 0} {
		if ids, err := log.Attached(t.Context(), id); err != nil || len(ids) != want {
			t.Errorf("sessions of %s: %v, %v", id, ids, err)
		}
	}
	if replicas, jobs, err := log.Reap(t.Context()); err != nil || replicas != 0 || jobs != 0 {
		t.Errorf("reaped again %d replicas, %d jobs, %v", replicas, jobs, err)
	}
}

func (r *replica) attachTo(t *testing.T, replicaID, id, user string) {
	t.Helper()
	s := session(id, user)
	s.ReplicaID = replicaID
	if _, err := r.Attach(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// The counter-example: somebody cancels or deletes a job, or its worker's last
// word was lost. The lane says owed, and no job will ever look at it.
func TestLostJobIsReplaced(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for _, user := range []string{"waiting", "working", "stuck", "cancelled", "deleted", "discarded", "parked", "idle"} {
		log.post(t, user, "x")
	}
	const longest = 15 * time.Second
	log.runs(t, "working", "one", 14*time.Second)
	log.runs(t, "stuck", "one", 16*time.Second)
	for _, state := range []string{"cancelled", "discarded"} {
		log.exec(t, `UPDATE river_job SET state = $1::text::river_job_state, finalized_at = now() WHERE args->>'user_id' = $1`, state)
	}
	log.exec(t, `DELETE FROM river_job WHERE args->>'user_id' IN ('deleted', 'parked', 'idle')`)
	log.settle(t, "parked")
	log.confirm(t, "idle", 1)
	log.settle(t, "idle")

	if n, err := log.Reconcile(t.Context(), longest); err != nil || n != 4 {
		t.Errorf("reconciled %d, %v", n, err)
	}
	for user, jobs := range map[string]int{"waiting": 1, "working": 1, "stuck": 2, "cancelled": 1, "deleted": 1, "discarded": 1} {
		log.wantLane(t, user, user, events.Owed, jobs)
	}
	log.wantLane(t, "parked", "parked", events.Parked, 0)
	log.wantLane(t, "idle", "idle", events.Idle, 0)
	if n, err := log.Reconcile(t.Context(), longest); err != nil || n != 0 {
		t.Errorf("reconciled again %d, %v", n, err)
	}
}

// The counter-example: a million streams of which three are owed. The reconcile
// must not look at the others.
func TestReconcileLooksOnlyAtOwedLanes(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.exec(t, `INSERT INTO streams (user_id) SELECT 'idle' || i FROM generate_series(1, 20000) i`)
	log.exec(t, `INSERT INTO streams (user_id, head, armed, lane) SELECT 'owed' || i, 1, 1, 1 FROM generate_series(1, 3) i`)
	log.exec(t, `ANALYZE streams`)
	if n, err := log.Reconcile(t.Context(), time.Minute); err != nil || n != 3 {
		t.Fatalf("reconciled %d, %v", n, err)
	}
	until(t, "statistics say how the streams were read", func() bool {
		log.exec(t, `SELECT pg_stat_clear_snapshot()`)
		var scans int
		if err := log.relaxed.QueryRow(t.Context(), `SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'streams_owed'`).Scan(&scans); err != nil {
			t.Fatal(err)
		}
		return scans > 0
	})
}
