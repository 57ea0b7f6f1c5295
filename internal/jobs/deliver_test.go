package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"restante/internal/events"
	"restante/internal/testdb"
)

// A job whose lane is settled has nothing to do any more: neither the one that
// settled it, nor a second one that River ran twice or somebody put back.
func TestJobEndsWhenItsLaneIsSettled(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	debts := map[string]events.Debt{
		"idle":             {Lane: events.Idle},
		"parked":           {Lane: events.Parked, PendingFor: time.Hour},
		"duplicate idle":   {Lane: events.Idle, Duplicate: true},
		"duplicate parked": {Lane: events.Parked, Duplicate: true, PendingFor: time.Hour},
	}
	ids := map[string]int64{}
	for user := range debts {
		ids[user] = insert(t, db, user, `{}`)
	}
	c := &core{settle: func(_ context.Context, user string) (events.Debt, error) { return debts[user], nil }}
	work(t, db, c)
	for user, id := range ids {
		until(t, user+" is completed", func() bool { return look(t, db, id).State == "completed" })
	}
	if c.settles() != len(debts) || c.wakes() != 0 {
		t.Errorf("%d looks, %d wakes", c.settles(), c.wakes())
	}
}

// The counter-example: a snooze of more than 5 s makes the job "scheduled", and
// from there only River's leader brings it back, up to 5 s late. And a job that
// is not snoozed for longer each time would be most of the work.
func TestSnoozesGrowToFiveSecondsAndStayAvailable(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	want := map[int]time.Duration{0: time.Second, 1: 2 * time.Second, 2: 4 * time.Second, 3: 5 * time.Second, 4: 5 * time.Second, 100000: 5 * time.Second}
	ids := map[int]int64{}
	for snoozes := range want {
		ids[snoozes] = insert(t, db, fmt.Sprint("user", snoozes), fmt.Sprintf(`{"snoozes": %d}`, snoozes))
	}
	c := &core{settle: func(context.Context, string) (events.Debt, error) {
		return events.Debt{Lane: events.Owed, PendingFor: time.Minute}, nil
	}}
	stop := work(t, db, c)
	for snoozes, id := range ids {
		until(t, "snoozed", func() bool { return look(t, db, id).Snoozes > snoozes })
	}
	stop()
	for snoozes, id := range ids {
		j := look(t, db, id)
		if j.Snoozes != snoozes+1 {
			continue // it has run again meanwhile
		}
		if off := j.DueIn - want[snoozes]; j.State != "available" || j.Attempt != 0 || off < -100*time.Millisecond || off > 900*time.Millisecond {
			t.Errorf("after %d snoozes: %+v, want due in %v", snoozes, j, want[snoozes])
		}
	}
	if c.wakes() < len(want) {
		t.Errorf("%d wakes", c.wakes())
	}
}

// A job leaves the lane alone as long as it should stay owed: it would only lock it,
// and wait for the disk.
func TestJobSettlesOnlyWhatItCan(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	owed := events.Debt{Lane: events.Owed, PendingFor: time.Minute}
	c := &core{
		settle: func(context.Context, string) (events.Debt, error) { return events.Debt{Lane: events.Idle}, nil },
		still: func(user string) (events.Debt, bool, error) {
			switch user {
			case "owed":
				return owed, true, nil
			case "busy":
				return events.Debt{Lane: events.Owed, Busy: true}, true, nil
			case "unknown":
				return events.Debt{}, false, events.ErrUnavailable
			}
			return events.Debt{}, false, nil
		},
	}
	first, settled := insert(t, db, "first", `{}`), insert(t, db, "settled", `{"snoozes": 3}`)
	busy := insert(t, db, "busy", `{}`)
	stillOwed, unknown := insert(t, db, "owed", `{"snoozes": 3}`), insert(t, db, "unknown", `{"snoozes": 3}`)
	stop := work(t, db, c)
	until(t, "all were looked at", func() bool {
		return look(t, db, first).State == "completed" && look(t, db, settled).State == "completed" &&
			look(t, db, busy).Snoozes == 1 && look(t, db, stillOwed).Snoozes > 3 && look(t, db, unknown).Attempt > 0
	})
	stop()
	for call, want := range map[string]bool{
		"look first": true, "settle first": true,
		"look busy": true, "settle busy": false,
		"look settled": true, "settle settled": true,
		"look owed": true, "settle owed": false,
		"look unknown": true, "settle unknown": false,
	} {
		if c.called(call) != want {
			t.Errorf("%s: %v", call, !want)
		}
	}
	if c.wakes() == 0 || c.wokenUser("busy") {
		t.Errorf("%d wakes; who is still owed is woken, who is busy has had all", c.wakes())
	}
	// Six delays of 10 s: a wake that is lost meanwhile is the sweep's.
	if j := look(t, db, busy); j.DueIn < 59*time.Second || j.DueIn > 61*time.Second {
		t.Errorf("a busy lane is looked at again in %v", j.DueIn)
	}
}

// A job whose stream somebody else has locked ends at once and comes again: workers are
// few, and others' jobs wait for them.
func TestJobOfALockedStreamComesAgain(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	c := &core{settle: func(context.Context, string) (events.Debt, error) {
		return events.Debt{Lane: events.Owed, Locked: true}, nil
	}}
	id := insert(t, db, "al", `{"snoozes": 7}`)
	stop := work(t, db, c)
	until(t, "snoozed", func() bool { return look(t, db, id).Snoozes > 7 })
	stop()
	if j := look(t, db, id); j.State != "available" || j.DueIn > 2*time.Second {
		t.Errorf("%+v", j)
	}
	if c.wakes() != 0 {
		t.Errorf("%d wakes", c.wakes())
	}
}

// A user under traffic always has something on its way. While the oldest of it is
// younger than the delay, its own wake delivers it: the job does not wake, and
// comes again when it is due.
func TestJobLeavesYoungEventsToTheirWake(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	young := map[string]time.Duration{"one second old": time.Second, "seven seconds old": 7 * time.Second}
	ids := map[string]int64{}
	for user := range young {
		ids[user] = insert(t, db, user, `{}`)
	}
	c := &core{settle: func(_ context.Context, user string) (events.Debt, error) {
		return events.Debt{Lane: events.Owed, PendingFor: young[user]}, nil
	}}
	work(t, db, c)
	for user, due := range map[string]time.Duration{"one second old": 5 * time.Second, "seven seconds old": 3 * time.Second} {
		until(t, "snoozed", func() bool { return look(t, db, ids[user]).Snoozes == 1 })
		if j := look(t, db, ids[user]); j.State != "available" || j.DueIn < due-100*time.Millisecond || j.DueIn > due+900*time.Millisecond {
			t.Errorf("%s: %+v, want due in %v", user, j, due)
		}
	}
	if c.wakes() != 0 {
		t.Errorf("%d wakes", c.wakes())
	}
}

// The counter-example: River waits attempt⁴ seconds after a failure, and gives a
// job up after 25. A lane that is owed would have no job (I2).
func TestFailedJobIsTriedAgainWithinASecond(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	fresh := insert(t, db, "fresh", `{}`)
	old := insert(t, db, "old", `{}`)
	if _, err := db.Pool.Exec(t.Context(), `UPDATE river_job SET attempt = 20000 WHERE id = $1`, old); err != nil {
		t.Fatal(err)
	}
	c := &core{settle: func(context.Context, string) (events.Debt, error) {
		return events.Debt{}, errors.New("Postgres is away")
	}}
	start := time.Now()
	work(t, db, c)
	for name, attempt := range map[string]int{"fresh": 3, "old": 20003} {
		id := map[string]int64{"fresh": fresh, "old": old}[name]
		until(t, "tried three times", func() bool { return look(t, db, id).Attempt >= attempt })
		if j := look(t, db, id); j.State == "discarded" || j.State == "retryable" {
			t.Errorf("%s: %+v", name, j)
		}
	}
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("three tries took %v", took)
	}
}

// A worker that hangs is cut off, and its job runs again.
func TestHangingJobIsCutOff(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	insert(t, db, "al", `{}`)
	c := &core{}
	c.settle = func(ctx context.Context, _ string) (events.Debt, error) {
		if c.settles() == 1 {
			<-ctx.Done()
			return events.Debt{}, ctx.Err()
		}
		return events.Debt{Lane: events.Idle}, nil
	}
	start := time.Now()
	work(t, db, c)
	until(t, "second try", func() bool { return c.settles() == 2 })
	if took := time.Since(start); took > 12*time.Second {
		t.Errorf("cut off after %v", took)
	}
}

// The counter-example: a replica that stops leaves its jobs running in the table,
// and their users wait for the reaper.
func TestStopGivesRunningJobsBack(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	id := insert(t, db, "al", `{}`)
	c := &core{settle: func(ctx context.Context, _ string) (events.Debt, error) {
		<-ctx.Done()
		return events.Debt{}, ctx.Err()
	}}
	stop := work(t, db, c)
	until(t, "running", func() bool { return c.settles() == 1 })
	start := time.Now()
	stop()
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("stopped after %v", took)
	}
	if j := look(t, db, id); j.State != "available" || j.DueIn > 5*time.Second { // due when it was given back
		t.Errorf("left behind: %+v", j)
	}
}

func TestStopLetsJobsFinish(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	id := insert(t, db, "al", `{}`)
	finish := make(chan struct{})
	c := &core{settle: func(ctx context.Context, _ string) (events.Debt, error) {
		select {
		case <-finish:
			return events.Debt{Lane: events.Idle}, nil
		case <-ctx.Done():
			return events.Debt{}, ctx.Err()
		}
	}}
	stop := work(t, db, c)
	until(t, "running", func() bool { return c.settles() == 1 })
	time.AfterFunc(200*time.Millisecond, func() { close(finish) })
	stop()
	if j := look(t, db, id); j.State != "completed" {
		t.Errorf("left behind: %+v", j)
	}
}

// The reaper finds the worker of a running job by its replica's id.
func TestRunningJobNamesItsReplica(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	id := insert(t, db, "al", `{}`)
	finish := make(chan struct{})
	c := &core{settle: func(context.Context, string) (events.Debt, error) {
		<-finish
		return events.Debt{Lane: events.Idle}, nil
	}}
	work(t, db, c)
	until(t, "running", func() bool { return c.settles() == 1 })
	defer close(finish)
	var by []string
	if err := db.Pool.QueryRow(t.Context(), `SELECT attempted_by FROM river_job WHERE id = $1 AND state = 'running'`, id).Scan(&by); err != nil {
		t.Fatal(err)
	}
	if len(by) != 1 || by[0] != "one" {
		t.Errorf("attempted by %q", by)
	}
}
