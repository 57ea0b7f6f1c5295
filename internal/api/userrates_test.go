package api

import (
	"fmt"
	"testing"
	"time"
)

func TestUserRate(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	r := newUserRate(5, "tokens a second")
	r.now = func() time.Time { return now }
	allowed := func(user string, tries int) (n int) {
		for range tries {
			if r.check(user, "") == nil {
				n++
			}
		}
		return n
	}
	if n := allowed("ann", 5000); n != 5*userBurst {
		t.Errorf("%d at once", n)
	}
	if n := allowed("bob", 10); n != 10 {
		t.Errorf("another user: %d of 10", n)
	}
	if p := r.check("ann", "Wait."); p.kind != rateLimited || p.limit != 5 || p.retryIn != 1 {
		t.Errorf("%+v", p)
	}
	now = now.Add(time.Second)
	if n := allowed("ann", 100); n != 5 {
		t.Errorf("%d a second later", n)
	}
	// A flood of others does not give it back.
	for i := range 100_000 {
		r.take(fmt.Sprint("user-", i))
	}
	if n := allowed("ann", 1); n != 0 {
		t.Error("a flood of other users has given ann a new burst")
	}
	// What is idle is forgotten.
	now = now.Add(time.Minute)
	for i := range 2 * 100_000 {
		r.take(fmt.Sprint("other-", i%10))
		if i%10 == 0 {
			now = now.Add(2 * time.Second)
		}
	}
	r.sweepAt = 0
	r.take("ann")
	if len(r.free) > 20 {
		t.Errorf("%d users are kept", len(r.free))
	}
	if off := newUserRate(0, ""); off.check("ann", "") != nil || len(off.free) > 0 {
		t.Error("a limit of 0 is one")
	}
}
