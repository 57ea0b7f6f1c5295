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
