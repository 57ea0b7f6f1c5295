package events_test

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestCensusCountsLanesAndWhatIsPending(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(log.CensusCollector())
	if n, err := testutil.GatherAndCount(registry, "restante_lanes"); n != 0 || err != nil {
		t.Errorf("before the first census: %d lanes, %v", n, err)
	}
	for _, user := range []string{"owed", "owed", "parked"} {
		log.post(t, user, "x")
	}
	log.exec(t, `INSERT INTO streams (user_id) VALUES ('idle')`)
	log.exec(t, `UPDATE streams SET lane = 2 WHERE user_id = 'parked'`)
	if err := log.TakeCensus(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP restante_lanes Streams by the state of their lane, at the last census. The same on every replica.
# TYPE restante_lanes gauge
restante_lanes{state="idle"} 1
restante_lanes{state="owed"} 1
restante_lanes{state="parked"} 1
# HELP restante_pending_messages Messages that nobody has confirmed, at the last census. The same on every replica.
# TYPE restante_pending_messages gauge
restante_pending_messages 3
# HELP restante_pending_users Users with messages that nobody has confirmed, at the last census. The same on every replica.
# TYPE restante_pending_users gauge
restante_pending_users 2
# HELP restante_unfinished_delivery_jobs Delivery jobs in River's table that are not finished, by state. The same on every replica.
# TYPE restante_unfinished_delivery_jobs gauge
restante_unfinished_delivery_jobs{state="available"} 2
restante_unfinished_delivery_jobs{state="retryable"} 0
restante_unfinished_delivery_jobs{state="running"} 0
restante_unfinished_delivery_jobs{state="scheduled"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"restante_lanes", "restante_pending_messages", "restante_pending_users", "restante_unfinished_delivery_jobs"); err != nil {
		t.Error(err)
	}
}

// TestCensusTellsHowLongSomebodyConnectedWaits: what waits for users who are away
// may be old, and a message is not late before there is somebody to take it.
func TestCensusTellsHowLongSomebodyConnectedWaits(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(log.CensusCollector())
	oldest := func() float64 {
		t.Helper()
		if err := log.TakeCensus(t.Context()); err != nil {
			t.Fatal(err)
		}
		return gauge(t, registry, "restante_pending_oldest_seconds")
	}
	between := func(what string, low, high float64) {
		t.Helper()
		if got := oldest(); got < low || got > high {
			t.Errorf("%s: the oldest waits for %v s, want %v to %v", what, got, low, high)
		}
	}
	between("nothing at all", 0, 0)
	for _, user := range []string{"ann", "ann", "bob"} {
		log.post(t, user, "x")
	}
	log.exec(t, `UPDATE events SET created_at = now() - CASE WHEN user_id = 'ann' THEN interval '1 hour' * (3 - seq) ELSE interval '1 week' END`)
	between("everybody is away", 0, 0)

	log.beat(t, "one")
	log.attach(t, "s1", "ann")
	between("ann has just come", 0, 60)
	log.exec(t, `UPDATE sessions SET connected_at = now() - interval '10 hours'`)
	between("ann has been here since before the first message", 7200, 7260)
	log.attach(t, "s2", "ann")
	between("ann's second device", 7200, 7260)
	log.exec(t, `UPDATE streams SET acked = 1, lane = 0 WHERE user_id = 'ann'`)
	between("the first is confirmed, and the lane is wrong", 3600, 3660)
	log.exec(t, `UPDATE replicas SET heartbeat_at = now() - interval '1 minute'`)
	between("the replica is dead", 0, 0)
	log.beat(t, "one")
	log.exec(t, `UPDATE sessions SET connected_at = now() + interval '1 hour'`)
	between("the replica's clock is ahead", 0, 0)
}

func TestOverdueIsWhatNobodyRuns(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(log.CensusCollector())
	log.post(t, "ann", "x")
	log.post(t, "bob", "x")
	if got := gauge(t, registry, "restante_delivery_overdue_seconds"); got != 0 {
		t.Errorf("jobs that are due later: %v s", got)
	}
	log.exec(t, `UPDATE river_job SET scheduled_at = now() - interval '1 minute' WHERE args->>'user_id' = 'ann'`)
	if got := gauge(t, registry, "restante_delivery_overdue_seconds"); got < 60 || got > 120 {
		t.Errorf("a job that was due a minute ago: %v s", got)
	}
	log.exec(t, `UPDATE river_job SET state = 'running' WHERE args->>'user_id' = 'ann'`)
	if got := gauge(t, registry, "restante_delivery_overdue_seconds"); got != 0 {
		t.Errorf("it is running: %v s", got)
	}
}

// gauge returns the value of a metric without labels.
func gauge(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}
