package api

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// userBurst is how many seconds' worth of its rate a user may use at once: with the
// default of 20 a second, all 32 connections that a user may have come back together
// several times in a row.
const userBurst = 20

// userRate bounds how often each user does something on this replica. It keeps one
// time for a user, and only while the user has used some of its burst: a user that is
// forgotten has all of it again anyway. So what it holds is bounded by what happened
// in the last seconds, and no user can push out another.
type userRate struct {
	unit  string // "tokens a second"
	limit int    // a second; 0 for none
	now   func() time.Time

	mu      sync.Mutex
	free    map[string]time.Time // when the user's burst is whole again
	sweepAt int                  // the number of users at which those that are idle are forgotten
}

func newUserRate(limit int, unit string) *userRate {
	return &userRate{limit: limit, unit: unit, now: time.Now, free: make(map[string]time.Time), sweepAt: leastSweep}
}

const leastSweep = 1024

// take counts one use, or reports how long the user has to wait for the next.
func (r *userRate) take(user string) (wait time.Duration, ok bool) {
	if r.limit == 0 {
		return 0, true
	}
	each := time.Second / time.Duration(r.limit)
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	free := r.free[user]
	if free.Before(now) {
		free = now
	}
	if wait := free.Add(each).Sub(now) - userBurst*time.Second; wait > 0 {
		return wait, false
	}
	r.free[user] = free.Add(each)
	if len(r.free) >= r.sweepAt {
		r.forget(now)
	}
	return 0, true
}

// forget drops the users that are idle, and leaves the others room to double.
func (r *userRate) forget(now time.Time) {
	for user, free := range r.free {
		if free.Before(now) {
			delete(r.free, user)
		}
	}
	r.sweepAt = max(leastSweep, 2*len(r.free))
}

// check counts one use, or returns the problem of a user who is over the limit.
func (r *userRate) check(user, what string) *problem {
	wait, ok := r.take(user)
	if ok {
		return nil
	}
	return &problem{kind: rateLimited, limit: int64(r.limit), unit: r.unit, retryIn: int(math.Ceil(wait.Seconds())),
		detail: fmt.Sprintf("One user may have %d %s from a replica, and %d at once. %s", r.limit, r.unit, userBurst*r.limit, what)}
}
