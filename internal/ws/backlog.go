package ws

import (
	"container/list"
	"sync"
)

// backlog is what all full connections of a replica keep together.
type backlog struct {
	limit int // bytes

	mu      sync.Mutex // guards all below
	waiting list.List  // of *kept; the one whose client has read nothing for longest is the first
	bytes   int
}

// add notes that a connection is full. When too much is kept it returns the
// connections that must end for it: those whose clients have read nothing for
// longest, so that a client that still reads keeps its connection.
func (b *backlog) add(k *kept) (longest []*conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k.place = b.waiting.PushBack(k)
	b.bytes += k.size
	for b.bytes > b.limit {
		front := b.waiting.Front()
		if front == nil {
			break
		}
		first := b.waiting.Remove(front).(*kept)
		b.bytes -= first.size
		first.size = 0
		longest = append(longest, first.conn)
	}
	return longest
}

// moved notes that a connection's client has taken in something.
func (b *backlog) moved(k *kept) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting.MoveToBack(k.place)
}

// remove notes that a connection keeps nothing any more.
func (b *backlog) remove(k *kept) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting.Remove(k.place)
	b.bytes -= k.size
	k.size = 0
}

// held returns how many bytes are kept.
func (b *backlog) held() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}
