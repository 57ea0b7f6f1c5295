package checker

import (
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shards = 64
	// maxJump bounds how far beyond the known head a seq may lie, so that a
	// corrupt one is reported instead of allocating memory for it.
	maxJump = 1 << 22
	// FromAcked as the position of Connect: the server chooses where to start.
	FromAcked int64 = -1
)

// Message is what the checker needs to know of a message: who posted it and
// what it holds. A publisher posts one message after the other and numbers
// them; publisher 0 stands for many and promises no order. Payloads of one user
// must differ from each other.
type Message struct {
	Publisher uint32
	N         uint64 // the publisher's own count, rising
	Digest    uint64 // of the payload, see Checker.Digest
	// Until is when the message expires, at the earliest: the time of the post and
	// the ttl, or what the 202 says. It must not be given up before. The zero value
	// leaves that unjudged, and is for users none of whose messages has an Until.
	Until time.Time
}

type id struct {
	publisher uint32
	n         uint64
}

func (m Message) id() id { return id{m.Publisher, m.N} }

// Checker collects observations and judges them. Use New.
type Checker struct {
	seed   maphash.Seed
	conns  atomic.Int64 // numbers connections
	shards [shards]shard
	faults faults
}

type shard struct {
	mu    sync.Mutex // guards users; each user has a lock of its own
	users map[string]*user
}

// New returns a checker that has seen nothing.
func New() *Checker {
	c := &Checker{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].users = map[string]*user{}
	}
	return c
}

// Digest identifies a payload. It is comparable within this Checker only and
// never 0, which stands for "not known".
func (c *Checker) Digest(payload []byte) uint64 {
	if h := maphash.Bytes(c.seed, payload); h != 0 {
		return h
	}
	return 1
}

func (c *Checker) user(name string) *user {
	s := &c.shards[maphash.String(c.seed, name)%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[name]
	if u == nil {
		u = newUser(name)
		s.users[name] = u
	}
	return u
}

func (c *Checker) each(f func(*user)) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		users := make([]*user, 0, len(s.users))
		for _, u := range s.users {
			users = append(users, u)
		}
		s.mu.Unlock()
		for _, u := range users {
			u.mu.Lock()
			f(u)
			u.mu.Unlock()
		}
	}
}

// Began tells that the user's log was not empty when the checker started: head
// and acked are what it held. What lies up to head is not judged for content.
// It must be the first call about the user.
func (c *Checker) Began(userID string, head, acked int64) {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.posted > 0 || len(u.digests) > 0 {
		c.fault(KindMisuse, u, nil, "Began after other observations")
		return
	}
	u.base, u.maxReceived, u.maxAccepted = head, acked, head
	u.confirmed = acked
	u.settled = head
}

// Posted tells that a publisher is about to post a message for the user.
func (c *Checker) Posted(userID string, m Message) {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.posted++
	u.open[m.id()] = m
	u.timed = u.timed || !m.Until.IsZero()
}

// Accepted tells that the message was answered 202 with this seq. Seq 0 means
// that the server does not tell its numbers: the message must be somewhere.
func (c *Checker) Accepted(userID string, m Message, seq int64) {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	posted, open := u.open[m.id()]
	if !open {
		posted, open = u.unknown[m.id()]
	}
	switch {
	case !open:
		c.fault(KindMisuse, u, nil, "publisher %d message %d was accepted without being posted", m.Publisher, m.N)
		return
	case posted.Digest != m.Digest:
		c.fault(KindMisuse, u, nil, "publisher %d message %d was posted with another payload", m.Publisher, m.N)
		return
	}
	_, wasUnknown := u.unknown[m.id()]
	delete(u.open, m.id())
	delete(u.unknown, m.id())
	u.accepted++
	if wasUnknown {
		u.late[m.id()] = struct{}{}
	}
	if seq == 0 {
		u.acceptUnnumbered(m.Digest)
		return
	}
	if seq <= u.base || seq > u.top()+maxJump {
		c.fault(KindInvented, u, nil, "accepted as seq %d, but the log held %d before and %d are known", seq, u.base, u.top())
		return
	}
	u.grow(seq)
	i := seq - u.base - 1
	switch {
	case u.flags[i]&wasAccepted != 0 && u.digests[i] == m.Digest:
		u.accepted-- // the answer to a retry: the first result again
		return
	case u.flags[i]&wasAccepted != 0:
		c.fault(KindChanged, u, nil, "two messages were accepted as seq %d; the later: publisher %d message %d", seq, m.Publisher, m.N)
		return
	case u.digests[i] != 0 && u.digests[i] != m.Digest:
		c.fault(KindChanged, u, nil, "seq %d was accepted as publisher %d message %d but delivered with another content", seq, m.Publisher, m.N)
	}
	u.digests[i] = m.Digest
	u.flags[i] |= wasAccepted
	if !m.Until.IsZero() {
		u.until[seq] = m.Until
	}
	u.maxAccepted = max(u.maxAccepted, seq)
	u.settle()
	if m.Publisher == 0 || wasUnknown {
		return
	}
	last, ok := u.order[m.Publisher]
	if ok && (m.N > last.n) != (seq > last.seq) {
		c.fault(KindOrder, u, nil, "publisher %d: its message %d became seq %d, its message %d seq %d", m.Publisher, m.N, seq, last.n, last.seq)
	}
	if m.N > last.n {
		u.order[m.Publisher] = placed{m.N, seq}
	}
}

// Refused tells that the message was answered with an error which says that
// nothing was written. It must never be delivered.
func (c *Checker) Refused(userID string, m Message) {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, m.id())
}

// Unknown tells that nobody knows whether the message was taken.
func (c *Checker) Unknown(userID string, m Message) {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.open, m.id())
	u.unknown[m.id()] = m
}

// Expired tells that every unconfirmed message up to seq has outlived its time.
// A connection may start behind it. Messages that have an Until are judged by it.
func (c *Checker) Expired(userID string, seq int64) {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.overtaken(seq)
	u.expired = max(u.expired, seq)
}

// Seen reports whether a client has received the message.
func (c *Checker) Seen(userID string, seq int64) bool {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.base < seq && seq <= u.top() && u.flags[seq-u.base-1]&wasReceived != 0
}

// Stream tells what the log itself holds at the end. The user is judged as
// finished by it.
func (c *Checker) Stream(userID string, head, acked int64) {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.finished, u.head, u.acked = true, head, acked
	u.overtaken(acked)
}

// Waiting counts the messages that live connections have yet to receive: each
// accepted message once for every live connection of its user that is behind
// it. Poll it to know when everything has arrived. Messages accepted without a
// number count by how many there are.
func (c *Checker) Waiting() int64 {
	var n int64
	c.each(func(u *user) {
		target := max(u.maxAccepted, u.base+u.unnumbered)
		for conn := range u.live {
			n += max(0, target-max(conn.last, conn.floor()))
		}
	})
	return n
}

func (c *Checker) fault(kind Kind, u *user, conn *Conn, format string, args ...any) {
	where := "user " + u.name
	if conn != nil {
		where += fmt.Sprintf(", connection %d", conn.number)
	}
	c.faults.add(kind, where, fmt.Sprintf(format, args...))
}
