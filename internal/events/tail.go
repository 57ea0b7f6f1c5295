package events

import (
	"sync"
	"time"
)

// tailBytes bounds what all tails of a replica may hold together; 64 events of
// one user is more than a session falls behind while it is awake.
const (
	tailBytes  = 16 << 20
	tailEvents = 64
)

// tail holds the newest events of users connected here, so that a message that this
// replica has committed, or heard of from the one that did, is not read back from
// Postgres (worth a quarter of the throughput alone, a third with four replicas).
//
// It is fed by known commits only. Seqs of a stream are contiguous, so a run without
// a hole is provably complete; where what was committed elsewhere is missing, or
// comes late, the run starts anew.
type tail struct {
	mu     sync.Mutex // guards all below
	users  map[string]*run
	oldest []tailRef // every held event, oldest first: what to drop when full
	bytes  int
}

type run struct {
	watchers int
	events   []Event // contiguous seqs, at most tailEvents
	dropped  int     // events dropped from the front, still in the array
}

type tailRef struct {
	run  *run
	seq  int64
	size int
}

func newTail() *tail { return &tail{users: map[string]*run{}} }

func (t *tail) watch(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.users[user]
	if r == nil {
		r = &run{}
		t.users[user] = r
	}
	r.watchers++
}

func (t *tail) unwatch(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.users[user]; r != nil {
		if r.watchers--; r.watchers <= 0 {
			r.events = nil // its refs in oldest find nothing and fall out in time
			delete(t.users, user)
		}
	}
}

// push adds an event that has just been committed.
func (t *tail) push(user string, e Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.users[user]
	if r == nil {
		return
	}
	if n := len(r.events); n > 0 && r.events[n-1].Seq+1 != e.Seq {
		r.events, r.dropped = nil, 0
	}
	if len(r.events) == tailEvents {
		// A fresh array, for readers may still hold the old one.
		r.events, r.dropped = append(make([]Event, 0, tailEvents), r.events[tailEvents/2:]...), 0
	}
	r.events = append(r.events, e)
	t.oldest = append(t.oldest, tailRef{r, e.Seq, len(e.Payload) + 128})
	t.bytes += len(e.Payload) + 128
	for t.bytes > tailBytes {
		ref := t.oldest[0]
		t.oldest = t.oldest[1:]
		t.bytes -= ref.size
		if len(ref.run.events) > 0 && ref.run.events[0].Seq == ref.seq {
			ref.run.drop()
		}
	}
}

// drop forgets the oldest event of a run. Its payload is free only with the array:
// when more of that is dropped than held, the rest moves to a new one. The old
// one is left as it is, for readers may hold it.
func (r *run) drop() {
	r.events = r.events[1:]
	if r.dropped++; r.dropped > len(r.events) {
		r.events, r.dropped = append([]Event(nil), r.events...), 0
	}
}

// read returns the events after a position if the tail has the very next one.
// The events are shared: they must not be changed.
func (t *tail) read(user string, after int64, limit int, now time.Time) ([]Event, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.users[user]
	if r == nil || len(r.events) == 0 {
		return nil, false
	}
	skip := after + 1 - r.events[0].Seq
	if skip < 0 || skip >= int64(len(r.events)) {
		return nil, false
	}
	found := r.events[skip:]
	found = found[:min(limit, len(found)):min(limit, len(found))]
	for i := range found {
		if !found[i].ExpiresAt.After(now) {
			return nil, false // the log knows what expired
		}
	}
	return found, true
}
