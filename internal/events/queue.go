package events

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// The two queues and their bounds. A commit of 8 MiB takes 150 ms here, one of 100
// small messages 2.5 ms, one small message 0.2 ms (Postgres alone, without its disk).
// One commit loop for all would let one publisher's arrays raise everybody's latency a
// hundredfold, in whatever order it serves them. So large requests have a commit loop
// of their own.
const (
	smallMessages = 64        // a request with more messages is large
	smallBytes    = 64 << 10  // a request with more payload is large
	smallRoom     = 32 << 20  // what small requests that wait may take
	largeRoom     = 128 << 20 // what large requests that wait may take: as much as their bodies
	requestRoom   = 4 << 10   // what a waiting request takes besides its payload

	// messageCost is what a message costs a commit besides its payload, in bytes:
	// 20 µs a message and 18 ns a byte.
	messageCost = 1 << 10

	smallQuantum = 16 << 10 // cost of small requests that a publisher gets each round
	largeQuantum = 1 << 20  // the same of large ones

	// sharedCost is the cost of one commit of small requests while several publishers
	// are active: 64 messages, 2 ms. 1024 messages take 18 ms, and then a thousand
	// goroutines run before the one of a publisher with a message now and then.
	sharedCost = 96 << 10
	// aloneAfter commits in a row for one publisher, it counts as the only one.
	aloneAfter = 256
)

// queue holds requests that wait for a commit. It shares commits out to publishers
// by deficit round robin: in each round a publisher with waiting requests may spend
// a quantum, and saves what is not enough for its next request. So a publisher's
// share of the commits does not grow with how much it sends. One that waits alone
// gets everything.
//
// When the queue is full, the publisher that takes the most room loses its newest
// request to one that has less than its share. A publisher alone may fill it all.
type queue struct {
	quantum int
	bound   int           // of room
	shared  int           // most that one commit costs while several publishers are active
	ready   chan struct{} // has room for one: the queue is no longer empty

	mu      sync.Mutex // guards all below
	lines   map[string]*line
	turn    *line // the line that is served next; its neighbours are a ring
	fullest *line // a line that took the most room when last looked for; may be nil
	room    int
	bytes   int64
	spare   []*line // empty, to be used again
	last    string  // the publisher of the last commit
	alone   int     // commits in a row that were all last's
}

// line is the waiting requests of one publisher, in the order of their arrival.
type line struct {
	publisher     string
	oldest        *appendRequest
	newest        *appendRequest
	room          int
	deficit       int  // what it may spend
	served        bool // it has its quantum of this round
	before, after *line
}

func newQueue(quantum, bound, shared int) *queue {
	return &queue{quantum: quantum, bound: bound, shared: shared, alone: aloneAfter, ready: make(chan struct{}, 1), lines: map[string]*line{}}
}

func (r *appendRequest) room() int { return r.bytes + requestRoom }
func (r *appendRequest) cost() int { return r.bytes + len(r.msgs)*messageCost }

func (r *appendRequest) large() bool { return len(r.msgs) > smallMessages || r.bytes > smallBytes }

// publisher returns whose share of the commits a request takes.
func (r *appendRequest) publisher() string {
	if len(r.msgs) == 0 {
		return ""
	}
	if m := &r.msgs[0]; m.Credential != "" {
		return m.Credential
	}
	return r.msgs[0].Publisher
}

// add queues a request and reports whether there was room. pushedOut are the
// requests that had to make room, for the caller to answer.
func (q *queue) add(r *appendRequest) (pushedOut []*appendRequest, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	publisher := r.publisher()
	l := q.lines[publisher]
	if q.room+r.room() > q.bound && q.room > 0 {
		if !q.underShare(l, r) {
			return nil, false
		}
		for q.room+r.room() > q.bound && q.room > 0 {
			pushedOut = append(pushedOut, q.pushOut(l))
		}
	}
	if l == nil {
		l = q.open(publisher)
	}
	l.push(r)
	q.room += r.room()
	q.bytes += int64(r.bytes)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return pushedOut, true
}

// underShare reports whether a line may have r when the queue is divided equally
// among those who wait.
func (q *queue) underShare(l *line, r *appendRequest) bool {
	waiting, room := len(q.lines), r.room()
	if l == nil {
		waiting++
	} else {
		room += l.room
	}
	return room <= q.share(waiting)
}

func (q *queue) share(waiting int) int { return q.bound / max(waiting, 1) }

// pushOut takes the newest request of the fullest line, not the newcomer's. The
// queue is full and the newcomer below its share, so another line is above it.
func (q *queue) pushOut(newcomer *line) *appendRequest {
	// Looking through all lines is rare: a flood stays above its share for long.
	if f := q.fullest; f == nil || f == newcomer || f.room <= q.share(len(q.lines)) {
		q.fullest = nil
		for _, l := range q.lines {
			if l != newcomer && (q.fullest == nil || l.room > q.fullest.room) {
				q.fullest = l
			}
		}
	}
	l := q.fullest
	r := l.newest
	l.remove(r)
	q.left(l, r)
	return r
}

// take waits for requests and moves a commit's worth of them to batch. It returns
// none when ctx has ended.
func (q *queue) take(ctx context.Context, batch []*appendRequest) []*appendRequest {
	for ctx.Err() == nil {
		if batch = q.gather(batch); len(batch) > 0 {
			return batch
		}
		select {
		case <-q.ready:
		case <-ctx.Done():
		}
	}
	return batch
}

// gather moves what is waiting to batch, up to the bounds of a commit.
func (q *queue) gather(batch []*appendRequest) []*appendRequest {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.turn == nil {
		return batch
	}
	most := maxCost
	if len(q.lines) > 1 || q.alone < aloneAfter {
		most = q.shared
	}
	full := load{msgs: batchMessages, bytes: batchBytes, cost: most}
	var has load
	for q.turn != nil {
		l := q.turn
		if !l.served {
			l.deficit += q.quantum
			l.served = true
		}
		for l.oldest != nil && l.oldest.cost() <= l.deficit {
			r := l.oldest
			if len(batch) > 0 && !has.with(r).fits(full) {
				return q.gathered(batch)
			}
			has = has.with(r)
			batch = append(batch, r)
			l.deficit -= r.cost()
			l.remove(r)
			if q.left(l, r) {
				break
			}
		}
		if q.turn == l { // it has spent its quantum
			l.served = false
			q.turn = l.after
		}
	}
	return q.gathered(batch)
}

// gathered remembers whether one publisher alone has been active.
func (q *queue) gathered(batch []*appendRequest) []*appendRequest {
	q.alone++
	for _, r := range batch {
		switch p := r.publisher(); {
		case p == q.last:
		case q.last == "": // the first of all
			q.last = p
		default:
			q.last, q.alone = p, 0
		}
	}
	return batch
}

// load is what a commit holds.
type load struct{ msgs, bytes, cost int }

const maxCost = 1 << 62

func (s load) with(r *appendRequest) load {
	return load{s.msgs + len(r.msgs), s.bytes + r.bytes, s.cost + r.cost()}
}

func (s load) fits(most load) bool {
	return s.msgs <= most.msgs && s.bytes <= most.bytes && s.cost <= most.cost
}

// left accounts for a request that has left its line, and closes the line when it
// was the last: a publisher saves nothing for when it has nothing to send.
func (q *queue) left(l *line, r *appendRequest) (closed bool) {
	q.room -= r.room()
	q.bytes -= int64(r.bytes)
	if l.oldest != nil {
		return false
	}
	delete(q.lines, l.publisher)
	if q.fullest == l {
		q.fullest = nil
	}
	if q.turn == l {
		q.turn = l.after
	}
	if q.turn == l {
		q.turn = nil
	}
	l.before.after, l.after.before = l.after, l.before
	if len(q.spare) < spareLines {
		*l = line{}
		q.spare = append(q.spare, l)
	}
	return true
}

// spareLines is how many empty lines are kept, so that a publisher that sends one
// request at a time costs no allocation.
const spareLines = 64

// open makes a line, which is served last in the round.
func (q *queue) open(publisher string) *line {
	var l *line
	if n := len(q.spare); n > 0 {
		l, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		l = &line{}
	}
	l.publisher = publisher
	q.lines[publisher] = l
	if q.turn == nil {
		l.before, l.after, q.turn = l, l, l
		return l
	}
	l.before, l.after = q.turn.before, q.turn
	l.before.after, l.after.before = l, l
	return l
}

func (l *line) push(r *appendRequest) {
	r.before = l.newest
	if l.newest == nil {
		l.oldest = r
	} else {
		l.newest.after = r
	}
	l.newest = r
	l.room += r.room()
}

func (l *line) remove(r *appendRequest) {
	if r.before == nil {
		l.oldest = r.after
	} else {
		r.before.after = r.after
	}
	if r.after == nil {
		l.newest = r.before
	} else {
		r.after.before = r.before
	}
	r.before, r.after = nil, nil
	l.room -= r.room()
}

func (q *queue) waiting() (publishers int, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.lines), q.bytes
}

func registerQueues(reg prometheus.Registerer, queues ...*queue) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "restante_append_queue_bytes", Help: "Payload bytes that wait for a commit.",
	}, func() float64 {
		var sum int64
		for _, q := range queues {
			_, bytes := q.waiting()
			sum += bytes
		}
		return float64(sum)
	}), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "restante_append_queue_publishers", Help: "Publishers with requests that wait for a commit.",
	}, func() float64 {
		sum := 0
		for _, q := range queues {
			publishers, _ := q.waiting()
			sum += publishers
		}
		return float64(sum)
	}))
}
