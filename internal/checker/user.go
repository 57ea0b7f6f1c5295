package checker

import (
	"sync"
	"time"
)

// What is known of one seq.
const (
	wasAccepted byte = 1 << iota
	wasReceived
	wasGapped // given up
)

// placed is where a publisher's last message went.
type placed struct {
	n   uint64
	seq int64
}

// misplaced is a message that was delivered behind a later one of its own
// publisher. Only at the end is it known whether its outcome was unknown.
type misplaced struct {
	id   id
	seq  int64
	last uint64
}

// user is everything about one stream. Positions are seqs; index i of the
// slices is seq base+i+1.
type user struct {
	name string

	mu      sync.Mutex // guards all below
	digests []uint64   // content of a seq as first learnt, 0 while unknown
	flags   []byte
	base    int64 // head before the checker began
	settled int64 // every seq up to here was accepted, and received or given up

	maxAccepted int64
	maxReceived int64 // highest seq that any connection received
	confirmed   int64 // highest seq that any client confirmed
	expired     int64

	posted, accepted int64
	received         int64
	repeated         int64
	gapped           int64

	open    map[id]Message  // posted, no outcome yet
	unknown map[id]Message  // outcome unknown
	late    map[id]struct{} // accepted after having been unknown
	order   map[uint32]placed
	seen    map[uint32]uint64 // publisher: highest count received
	wrong   []misplaced

	timed bool                // messages have an Until
	until map[int64]time.Time // seq of an accepted message: its Until
	gone  map[int64]time.Time // seq that was given up: when

	unnumbered int64            // how many were accepted without a seq
	unplaced   map[uint64]int64 // those of them not received yet: digest, how often

	live map[*Conn]struct{}

	finished    bool
	head, acked int64
}

func newUser(name string) *user {
	return &user{
		name: name, open: map[id]Message{}, unknown: map[id]Message{}, until: map[int64]time.Time{}, gone: map[int64]time.Time{}, late: map[id]struct{}{},
		order: map[uint32]placed{}, seen: map[uint32]uint64{}, unplaced: map[uint64]int64{}, live: map[*Conn]struct{}{},
	}
}

// top is the highest seq there is room for.
func (u *user) top() int64 { return u.base + int64(len(u.flags)) }

func (u *user) grow(seq int64) {
	if n := seq - u.top(); n > 0 {
		u.digests = append(u.digests, make([]uint64, n)...)
		u.flags = append(u.flags, make([]byte, n)...)
	}
}

// start is the highest seq behind which a connection may begin.
func (u *user) start() int64 { return max(u.confirmed, u.expired) }

// settle moves the mark below which no acceptance is awaited. It keeps the
// search for unnumbered messages short.
func (u *user) settle() {
	for u.settled < u.top() {
		f := u.flags[u.settled-u.base]
		if f&wasAccepted == 0 || f&(wasReceived|wasGapped) == 0 {
			return
		}
		u.settled++
	}
}

// acceptUnnumbered finds the place of a message whose seq was not told: it has
// been received already, or will be.
func (u *user) acceptUnnumbered(digest uint64) {
	u.unnumbered++
	for seq := u.settled + 1; seq <= u.top(); seq++ {
		i := seq - u.base - 1
		if u.digests[i] == digest && u.flags[i]&wasReceived != 0 && u.flags[i]&wasAccepted == 0 {
			u.flags[i] |= wasAccepted
			u.settle()
			return
		}
	}
	u.unplaced[digest]++
}

// take notes the content of a seq that a client received. It reports whether
// that is the content the seq had before, if any.
func (u *user) take(seq int64, m Message) (same bool) {
	i := seq - u.base - 1
	if u.digests[i] != 0 && u.digests[i] != m.Digest {
		return false
	}
	u.digests[i] = m.Digest
	u.flags[i] |= wasReceived
	if u.flags[i]&wasAccepted == 0 && u.unplaced[m.Digest] > 0 {
		if u.unplaced[m.Digest]--; u.unplaced[m.Digest] == 0 {
			delete(u.unplaced, m.Digest)
		}
		u.flags[i] |= wasAccepted
	}
	u.settle()
	if m.Publisher != 0 && seq > u.maxReceived {
		if last := u.seen[m.Publisher]; m.N <= last {
			u.wrong = append(u.wrong, misplaced{m.id(), seq, last})
		} else {
			u.seen[m.Publisher] = m.N
		}
	}
	return true
}

// find returns the seq of a message by its content, or 0.
func (u *user) find(digest uint64) int64 {
	for i := len(u.digests) - 1; i >= 0; i-- {
		if u.digests[i] == digest {
			return u.base + int64(i) + 1
		}
	}
	return 0
}
