package events_test

import (
	"errors"
	"strings"
	"testing"
	"time"

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

// The counter-example: something slow holds one user's stream. Every batch that
// has a message for this user waits, fails, and takes the messages of all others
// with it; repeated one by one, each message for this user waits again.
func TestMessagesForALockedStreamStallNobodyForLong(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	slow, metrics := measured(t, url)
	release := holdLock(t, log, "stuck")
	defer release()

	open := holdLock(t, log, "gate") // so that what follows collects into one batch
	gate := appending(t, slow, "gate")
	log.waiting(t, 1)
	var stuck, free []<-chan result[[]events.Receipt]
	queued := 0
	for range 10 {
		stuck = append(stuck, appending(t, slow, "stuck"))
		queued += len(`"x"`)
		until(t, "message is queued", func() bool { return metric(t, metrics, "restante_append_queue_bytes") == float64(queued) })
	}
	for _, user := range []string{"free", "also free"} {
		free = append(free, appending(t, slow, user))
		queued += len(`"x"`)
		until(t, "message is queued", func() bool { return metric(t, metrics, "restante_append_queue_bytes") == float64(queued) })
	}
	start := time.Now()
	open()
	get(t, "append to gate", gate)
	for _, done := range free {
		get(t, "append to a free stream", done)
	}
	// The lock timeout is 2 s.
	if took := time.Since(start); took > 7*time.Second {
		t.Errorf("others waited %v", took)
	}
	for _, done := range stuck {
		if r := <-done; !errors.Is(r.err, events.ErrUnavailable) || errors.Is(r.err, events.ErrOutcomeUnknown) {
			t.Errorf("append to the locked stream: %v", r.err)
		}
	}
	// While the stream is known to be stuck, its messages do not even try.
	start = time.Now()
	if _, err := slow.Append(t.Context(), []events.Message{message("free", "y"), message("stuck", "y")}); !errors.Is(err, events.ErrUnavailable) || time.Since(start) > time.Second {
		t.Errorf("append to a stream known to be stuck: %v after %v", err, time.Since(start))
	}
	release()
	until(t, "the stream takes messages again", func() bool {
		r, err := slow.Append(t.Context(), []events.Message{message("stuck", "y")})
		return err == nil && r[0].Seq == 1
	})
}

// The counter-example: the requests are of several users, and the error does not
// say whose stream is locked. Each of them waits again, alone, one after the other.
func TestRequestsWithALockedStreamAmongThemStallNobodyForLong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		locked []string
		bad    bool // a message among them fails the batch before it comes to the lock
	}{
		"several streams": {locked: []string{"a stuck one", "stuck", "stuck too", "z stuck"}},
		"a bad message":   {locked: []string{"stuck"}, bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := startLog(t)
			slow, metrics := measured(t, log.durable.Config().ConnString())
			for _, user := range c.locked {
				t.Cleanup(holdLock(t, startLogOn(t, log.durable.Config().ConnString()), user))
			}
			open := holdLock(t, log, "gate") // so that what follows collects into one batch
			gate := appending(t, slow, "gate")
			log.waiting(t, 1)
			queued := 0
			post := func(users ...string) <-chan result[[]events.Receipt] {
				done := appending(t, slow, users...)
				queued += len(users) * len(`"x"`)
				until(t, "request is queued", func() bool { return metric(t, metrics, "restante_append_queue_bytes") == float64(queued) })
				return done
			}
			var stuck []<-chan result[[]events.Receipt]
			for i := range 8 {
				stuck = append(stuck, post("free", c.locked[i%len(c.locked)], "new"))
			}
			if c.bad {
				post(strings.Repeat("bad", 100))
			}
			free := []<-chan result[[]events.Receipt]{post("free"), post("new", "free")}
			start := time.Now()
			open()
			get(t, "append to gate", gate)
			for _, done := range free {
				get(t, "append to free streams", done)
			}
			// The lock timeout is 2 s.
			if took := time.Since(start); took > 7*time.Second {
				t.Errorf("others waited %v", took)
			}
			for _, done := range stuck {
				if r := <-done; !errors.Is(r.err, events.ErrUnavailable) || errors.Is(r.err, events.ErrOutcomeUnknown) {
					t.Errorf("append to a locked stream: %v", r.err)
				}
			}
		})
	}
}

// One request alone, again and again: it is its own batch.
func TestRequestAloneWithALockedStreamStallsNobodyForLong(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	release := holdLock(t, log, "stuck")
	defer release()
	start := time.Now()
	for range 10 {
		if err := (<-appending(t, log, "free", "stuck")).err; !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("append to a locked stream: %v", err)
		}
		get(t, "append to a free stream", appending(t, log, "free"))
	}
	if took := time.Since(start); took > 7*time.Second {
		t.Errorf("others waited %v", took)
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
