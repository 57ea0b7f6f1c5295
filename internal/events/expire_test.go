package events_test

import (
	"errors"
	"testing"

	"restante/internal/events"
	"restante/internal/testdb"
)

// states names the state of a user's messages, from the first to the last.
func (r *replica) states(t *testing.T, user string, head int64) (all []events.State) {
	t.Helper()
	for seq := range head {
		status, err := r.Status(t.Context(), user, seq+1)
		if err != nil {
			t.Fatalf("status of message %d: %v", seq+1, err)
		}
		all = append(all, status.State)
	}
	return all
}

func (r *replica) wantStates(t *testing.T, when, user string, want ...events.State) {
	t.Helper()
	got := r.states(t, user, int64(len(want)))
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s: message %d is %s, want %s", when, i+1, got[i], want[i])
		}
	}
}

// The counter-example: a message expires before its user comes, and before the
// trim. The reader leaves it out, the client confirms the next one, and from the
// acked position it looks delivered.
func TestWhatAReaderLeavesOutHasExpired(t *testing.T) {
	t.Parallel()
	log, metrics := measured(t, startLog(t).durable.Config().ConnString())
	log.fill(t, "al", 5, 10)
	log.expire(t, "al", 1, 3, 5)
	if got := seqs(log.read(t, "al", 0)); got != "2 4 through 5" {
		t.Errorf("read %s", got)
	}
	log.want(t, "al", 1, 0, 2, 4)
	if n := metric(t, metrics, "restante_events_expired_total"); n != 3 {
		t.Errorf("%v events were counted", n)
	}
	log.confirm(t, "al", 4)
	log.wantStates(t, "confirmed", "al", events.Expired, events.Delivered, events.Expired, events.Delivered, events.Expired)
	// The next trim reports it, once, and goes over what nobody can confirm.
	if done := log.trim(t); done.Expired != 3 {
		t.Errorf("trimmed %+v", done)
	}
	log.want(t, "al", 5, 0, 2, 4)
	if done := log.trim(t); done.Expired != 0 {
		t.Errorf("trimmed again %+v", done)
	}
	log.wantStates(t, "trimmed", "al", events.Expired, events.Delivered, events.Expired, events.Delivered, events.Expired)
	if n := metric(t, metrics, "restante_events_expired_total"); n != 3 {
		t.Errorf("%v events were counted", n)
	}
	// When what was delivered after it is past the retention, it is forgotten too.
	log.age(t, "al", 2)
	log.trim(t)
	log.want(t, "al", 5, 3, 4)
	if _, err := log.Status(t.Context(), "al", 1); !errors.Is(err, events.ErrNotFound) {
		t.Errorf("status of what is past the retention: %v", err)
	}
}

// A message that a client has confirmed stays delivered, whatever its time was.
func TestConfirmedMessageDoesNotExpire(t *testing.T) {
	t.Parallel()
	log, metrics := measured(t, startLog(t).durable.Config().ConnString())
	log.fill(t, "al", 4, 10)
	log.confirm(t, "al", 2)
	log.expire(t, "al", 1, 2, 3)
	for _, after := range []int64{0, 1, 2} { // a reader that is sent it once more is not
		if got := seqs(log.read(t, "al", after)); got != "4 through 4" {
			t.Errorf("read after %d: %s", after, got)
		}
	}
	log.trim(t)
	log.wantStates(t, "trimmed", "al", events.Delivered, events.Delivered, events.Expired, events.Accepted)
	if n := metric(t, metrics, "restante_events_expired_total"); n != 1 {
		t.Errorf("%v events were counted", n)
	}
}

// The counter-example: two devices. The first was sent a message in time and has
// not confirmed it; the second comes later, is told that it has expired, and
// confirms the next one. Then the first confirms.
func TestLateConfirmationDoesNotUndoAnExpiry(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.fill(t, "al", 3, 10)
	if got := seqs(log.read(t, "al", 0)); got != "1 2 3 through 3" {
		t.Errorf("first device: %s", got)
	}
	log.expire(t, "al", 1)
	if got := seqs(log.read(t, "al", 0)); got != "2 3 through 3" {
		t.Errorf("second device: %s", got)
	}
	log.confirm(t, "al", 2)
	log.Ack("al", 1)
	log.confirm(t, "al", 3)
	log.wantStates(t, "confirmed by both", "al", events.Expired, events.Delivered, events.Delivered)
}

// Whoever leaves an event out looks at it again under the stream's lock: a client
// that was sent it in time may just have confirmed it.
func TestExpiryIsDecidedUnderTheLock(t *testing.T) {
	t.Parallel()
	url := startLog(t).durable.Config().ConnString()
	one, metrics1 := measured(t, url)
	two, metrics2 := measured(t, url)
	one.fill(t, "al", 3, 10)
	one.expire(t, "al", 1, 2)
	tx, err := one.relaxed.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE streams SET acked = 1 WHERE user_id = 'al'`); err != nil {
		t.Fatal(err)
	}
	read := func(r *replica) <-chan result[events.Page] {
		return doing(func() (page events.Page, err error) {
			for page, err = r.Read(t.Context(), "al", 0, 0); errors.Is(err, events.ErrUnavailable); {
				page, err = r.Read(t.Context(), "al", 0, 0)
			}
			return page, err
		})
	}
	first, second := read(one), read(two)
	until(t, "both have read", func() bool {
		return metric(t, metrics1, "restante_read_seconds") > 0 && metric(t, metrics2, "restante_read_seconds") > 0
	})
	if done := two.trim(t); done.Expired != 0 || done.Skipped == 0 {
		t.Errorf("trimmed %+v while the stream was locked", done)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for what, page := range map[string]events.Page{"first": get(t, "first read", first), "second": get(t, "second read", second)} {
		if got := seqs(page); got != "3 through 3" {
			t.Errorf("%s read %s", what, got)
		}
	}
	one.wantStates(t, "in the end", "al", events.Delivered, events.Expired, events.Accepted)
	if n := metric(t, metrics1, "restante_events_expired_total") + metric(t, metrics2, "restante_events_expired_total"); n != 1 {
		t.Errorf("%v events were counted", n)
	}
}

// A reader that cannot expire what it leaves out gives nothing away, and leaves
// nothing behind: it reads again.
func TestReadFailsWhenItsHolesCannotBeRecorded(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.fill(t, "al", 2, 10)
	log.expire(t, "al", 1)
	release := holdLock(t, log, "al")
	defer release()
	if page, err := log.Read(t.Context(), "al", 0, 0); !errors.Is(err, events.ErrUnavailable) || len(page.Events) > 0 {
		t.Errorf("read %s, %v", seqs(page), err)
	}
	log.fill(t, "bea", 1, 10)
	if got := seqs(log.read(t, "bea", 0)); got != "1 through 1" {
		t.Errorf("another user's reader: %s", got)
	}
	release()
	if got := seqs(log.read(t, "al", 0)); got != "2 through 2" {
		t.Errorf("read again %s", got)
	}
	log.wantStates(t, "read again", "al", events.Expired, events.Accepted)
}

// A client may be told of a gap, and confirm what follows, on both sides of a crash
// of Postgres: what has expired must not be back by then.
func TestExpirySurvivesACrashOfPostgres(t *testing.T) {
	t.Parallel()
	for what, expire := range map[string]func(*testing.T, *replica){
		"reader": func(t *testing.T, log *replica) { log.read(t, "al", 0) },
		"trim":   func(t *testing.T, log *replica) { log.trim(t) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			cluster := testdb.Cluster(t)
			log := startLogOn(t, testdb.Migrated(t, cluster))
			log.fill(t, "al", 2, 10)
			log.expire(t, "al", 1)
			expire(t, log)
			if err := cluster.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := cluster.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			until(t, "Postgres is back", func() bool { _, err := log.Stream(t.Context(), "al"); return err == nil })
			log.want(t, "al", 1, 0, 2)
		})
	}
}
