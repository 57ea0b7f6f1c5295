package events

import "time"

// stuckFor is how long messages for a stream that somebody else held on to are
// refused before it is tried again. Each try costs all publishers of this replica
// two lock timeouts: that of the batch, and that of the message alone.
const stuckFor = 5 * time.Second

// stuck remembers the streams that could not be locked in time. It belongs to the
// commit loop.
type stuck map[string]time.Time // by user; when to try again

// note takes down the stream of a request that could not lock it. A request of
// several users does not say whose stream it was.
func (s stuck) note(r *appendRequest, err error, now time.Time) {
	if !lockTimeout(err) {
		return
	}
	user := r.msgs[0].UserID
	for i := range r.msgs {
		if r.msgs[i].UserID != user {
			return
		}
	}
	s[user] = now.Add(stuckFor)
}

// holds reports whether a request would wait for a stream that is stuck.
func (s stuck) holds(r *appendRequest, now time.Time) bool {
	if len(s) == 0 {
		return false
	}
	for i := range r.msgs {
		switch until, ok := s[r.msgs[i].UserID]; {
		case !ok:
		case now.Before(until):
			return true
		default:
			delete(s, r.msgs[i].UserID)
		}
	}
	return false
}
