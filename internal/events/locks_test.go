package events_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/events"
)

// metric returns the sum of a metric's values, of a histogram's counts, over its
// labels.
func metric(t *testing.T, reg *prometheus.Registry, name string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
		return sum
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// measured is a replica whose metrics the test can read.
func measured(t *testing.T, url string, change ...func(*events.Config)) (*replica, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewRegistry()
	change = append(change, func(cfg *events.Config) { cfg.Metrics = reg })
	return startLogOn(t, url, change...), reg
}

func appending(t *testing.T, r *replica, users ...string) <-chan result[[]events.Receipt] {
	t.Helper()
	var msgs []events.Message
	for _, user := range users {
		msgs = append(msgs, message(user, "x"))
	}
	return doing(func() ([]events.Receipt, error) { return r.Append(t.Context(), msgs) })
}

// The counter-example: one batch has b's stream and waits for m's, the other has
// a's and waits for b's, and the first goes on to a's. Locked in the order of the
// user ids, the second waits from the start.
func TestBatchesOfSharedUsersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	one, metrics1 := measured(t, url, patient(t, url))
	two, metrics2 := measured(t, url, patient(t, url))
	for _, user := range []string{"b", "a"} {
		log.post(t, user, "x")
	}
	release := holdLock(t, log, "m")
	defer release()
	first := appending(t, one, "b", "m", "a")
	log.waiting(t, 1)
	second := appending(t, two, "a", "b")
	log.waiting(t, 2)
	release()
	get(t, "first append", first)
	get(t, "second append", second)
	for _, reg := range []*prometheus.Registry{metrics1, metrics2} {
		if n := metric(t, reg, "restante_append_errors_total"); n > 0 {
			t.Errorf("%v transactions were rolled back", n)
		}
	}
}

// The counter-example: a batch locks the streams that exist, b, and then inserts
// the missing one, a; another has just inserted a, and comes to b. In one upsert
// existing and missing streams are locked in one order.
func TestBatchesOfNewAndOldUsersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	one, metrics1 := measured(t, url, patient(t, url))
	two, metrics2 := measured(t, url, patient(t, url))
	// A stream that is being created: whoever wants it waits.
	tx, err := log.relaxed.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `INSERT INTO streams (user_id) VALUES ('aa')`); err != nil {
		t.Fatal(err)
	}
	first := appending(t, one, "a", "aa", "b") // all new
	log.waiting(t, 1)
	log.post(t, "b", "x")
	second := appending(t, two, "a", "b") // new and old
	log.waiting(t, 2)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	get(t, "first append", first)
	get(t, "second append", second)
	for _, reg := range []*prometheus.Registry{metrics1, metrics2} {
		if n := metric(t, reg, "restante_append_errors_total"); n > 0 {
			t.Errorf("%v transactions were rolled back", n)
		}
	}
}

// The counter-example: the look-up of idempotency keys happens in the statement
// that takes the lock, or before. It waits for a first try that is about to
// commit, does not see it, and writes the message again.
func TestRetrySeesTheFirstTryItWaitedFor(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	one, two := startLogOn(t, url, patient(t, url)), startLogOn(t, url, patient(t, url))
	gate := log.shut(t, "events")
	m := message("al", "x")
	m.Key = "once"
	first := doing(func() ([]events.Receipt, error) { return one.Append(t.Context(), []events.Message{m}) })
	log.held(t, 1)
	again := doing(func() ([]events.Receipt, error) { return two.Append(t.Context(), []events.Message{m}) })
	log.waiting(t, 1)
	gate.open()
	if r := get(t, "first try", first)[0]; r.Repeated || r.Seq != 1 || r.Err != nil {
		t.Errorf("first try: %+v", r)
	}
	if r := get(t, "retry", again)[0]; !r.Repeated || r.Seq != 1 || r.Err != nil {
		t.Errorf("retry: %+v", r)
	}
}
