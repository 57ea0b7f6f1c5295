package events

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// request makes a request of a publisher; they are told apart by their address.
func request(publisher string, messages, bytes int) *appendRequest {
	r := &appendRequest{msgs: make([]Message, messages), bytes: bytes, done: make(chan struct{})}
	r.msgs[0].Publisher = publisher
	return r
}

func smallQueue() *queue { return newQueue(smallQuantum, smallRoom, sharedCost) }
func largeQueue() *queue { return newQueue(largeQuantum, largeRoom, maxCost) }

func (q *queue) mustAdd(t *testing.T, r *appendRequest) {
	t.Helper()
	if pushedOut, ok := q.add(r); !ok || len(pushedOut) > 0 {
		t.Fatalf("refused: %v, pushed out: %d", !ok, len(pushedOut))
	}
}

// check recounts what the queue has counted.
func (q *queue) check(t *testing.T) {
	t.Helper()
	room, bytes := 0, int64(0)
	for publisher, l := range q.lines {
		own := 0
		for r := l.oldest; r != nil; r = r.after {
			own += r.room()
			bytes += int64(r.bytes)
			if r.publisher() != publisher {
				t.Fatalf("a request of %q in the line of %q", r.publisher(), publisher)
			}
		}
		if l.oldest == nil || own != l.room {
			t.Fatalf("line %q: room %d, counted %d", publisher, l.room, own)
		}
		room += own
	}
	ring := 0
	for l := q.turn; l != nil; l = l.after {
		if l.after.before != l || q.lines[l.publisher] != l {
			t.Fatal("the ring is broken")
		}
		if ring++; l.after == q.turn {
			break
		}
	}
	if room != q.room || bytes != q.bytes || ring != len(q.lines) {
		t.Fatalf("room %d, counted %d; bytes %d, counted %d; ring of %d, %d lines", q.room, room, q.bytes, bytes, ring, len(q.lines))
	}
}

func TestQueueKeepsAPublishersOrder(t *testing.T) {
	t.Parallel()
	q := smallQueue()
	var sent []*appendRequest
	for i := range 3000 {
		r := request("a", 1, i%1000)
		q.mustAdd(t, r)
		q.mustAdd(t, request(fmt.Sprint("other", i%7), 1, 10))
		sent = append(sent, r)
	}
	var got []*appendRequest
	for batch := q.gather(nil); len(batch) > 0; batch = q.gather(nil) {
		for _, r := range batch {
			if r.publisher() == "a" {
				got = append(got, r)
			}
		}
	}
	if len(got) != len(sent) {
		t.Fatalf("%d of %d requests", len(got), len(sent))
	}
	for i := range sent {
		if got[i] != sent[i] {
			t.Fatalf("request %d is out of order", i)
		}
	}
	q.check(t)
}

// The counter-example: one publisher has filled the queue, and a message of another
// waits for all of that.
func TestQueueServesTheOtherPublisherInTheNextCommit(t *testing.T) {
	t.Parallel()
	for floods := range 5 {
		q := smallQueue()
		for i := range 4000 {
			q.mustAdd(t, request(fmt.Sprint("flood", i%(floods+1)), 1, 250))
		}
		for round := range 10 {
			q.gather(nil)
			one := request("other", 1, 250)
			q.mustAdd(t, one)
			batch := q.gather(nil)
			cost := 0
			found := false
			for _, r := range batch {
				cost += r.cost()
				found = found || r == one
			}
			if !found {
				t.Errorf("%d floods, round %d: not in the next commit of %d requests", floods+1, round, len(batch))
			}
			if cost > sharedCost {
				t.Errorf("%d floods: a commit of cost %d while another publisher is active", floods+1, cost)
			}
		}
		q.check(t)
	}
}

// Shares are of what commits cost, not of requests: 8 MiB and a hundred messages are
// both one request.
func TestQueueSharesByCost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		new func() *queue
		add map[string]func() *appendRequest
	}{
		"long arrays and short ones": {largeQueue, map[string]func() *appendRequest{
			"a": func() *appendRequest { return request("a", 1000, 8<<20) },
			"b": func() *appendRequest { return request("b", 100, 100<<10) },
		}},
		"many messages and long ones": {largeQueue, map[string]func() *appendRequest{
			"a": func() *appendRequest { return request("a", 1000, 1000) },
			"b": func() *appendRequest { return request("b", 2, 1<<20) },
		}},
		"small requests": {smallQueue, map[string]func() *appendRequest{
			"a": func() *appendRequest { return request("a", 1, 60<<10) },
			"b": func() *appendRequest { return request("b", 1, 2) },
			"c": func() *appendRequest { return request("c", 60, 600) },
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			q := c.new()
			waiting, spent := map[string]int{}, map[string]int{}
			largest, total := 0, 0
			for total < 200<<20 {
				for publisher, r := range c.add {
					for waiting[publisher] < 5*max(q.quantum, sharedCost) { // always enough for a whole commit
						one := r()
						q.mustAdd(t, one)
						waiting[publisher] += one.cost()
						largest = max(largest, one.cost())
					}
				}
				for _, r := range q.gather(nil) {
					spent[r.publisher()] += r.cost()
					waiting[r.publisher()] -= r.cost()
					total += r.cost()
				}
			}
			for publisher, cost := range spent {
				if fair := total / len(c.add); cost < fair-2*(largest+q.quantum) || cost > fair+2*(largest+q.quantum) {
					t.Errorf("%s got %d of %d, a fair share is %d", publisher, cost, total, fair)
				}
			}
		})
	}
}

func TestQueueGivesAPublisherAloneEverything(t *testing.T) {
	t.Parallel()
	q := smallQueue()
	n := smallRoom / (requestRoom + 256)
	for range n {
		q.mustAdd(t, request("a", 1, 256)) // all the room there is
	}
	if _, ok := q.add(request("a", 1, 4096)); ok {
		t.Error("there was more room than the bound")
	}
	if batch := q.gather(nil); len(batch) != batchMessages {
		t.Errorf("a commit of %d messages, want %d", len(batch), batchMessages)
	}
	// Until another one comes.
	q.mustAdd(t, request("b", 1, 256))
	for range 2 {
		if batch := q.gather(nil); len(batch) > sharedCost/(256+messageCost) {
			t.Errorf("a commit of %d messages while another publisher is active", len(batch))
		}
	}
	// And again when that one is gone.
	for range aloneAfter {
		q.gather(nil)
		for q.room < q.bound/2 {
			q.mustAdd(t, request("a", 1, 256))
		}
	}
	if batch := q.gather(nil); len(batch) != batchMessages {
		t.Errorf("a commit of %d messages after the other publisher has gone, want %d", len(batch), batchMessages)
	}
}

// The counter-example: one publisher has filled the queue, and everybody else gets
// a 503 until that is written.
func TestQueueMakesRoomForPublishersBelowTheirShare(t *testing.T) {
	t.Parallel()
	q := largeQueue()
	var flood []*appendRequest
	for {
		r := request("flood", 1000, 8<<20-requestRoom)
		if _, ok := q.add(r); !ok {
			break
		}
		flood = append(flood, r)
	}
	if len(flood) != largeRoom/(8<<20) {
		t.Fatalf("%d requests of 8 MiB in %d bytes", len(flood), largeRoom)
	}
	got := 0
	for {
		pushedOut, ok := q.add(request("other", 100, 1<<20-requestRoom))
		if !ok {
			break
		}
		got++
		for _, r := range pushedOut {
			if r != flood[len(flood)-1] {
				t.Fatal("it was not the newest request of the flood that made room")
			}
			flood = flood[:len(flood)-1]
		}
	}
	q.check(t)
	if got != largeRoom/2>>20 || len(flood) != largeRoom/2/(8<<20) {
		t.Errorf("%d requests of 1 MiB against %d of 8 MiB; each should have half", got, len(flood))
	}
	if _, ok := q.add(request("flood", 1000, 8<<20-requestRoom)); ok {
		t.Error("above its share, the flood may still push others out")
	}
	// A third one's share comes from both.
	for range largeRoom / 3 >> 20 {
		if _, ok := q.add(request("third", 100, 1<<20-requestRoom)); !ok {
			t.Fatal("refused below its share")
		}
	}
	q.check(t)
	for publisher, l := range q.lines {
		if l.room < q.bound/3-8<<20 || l.room > q.bound/3+8<<20 {
			t.Errorf("%s has %d of %d", publisher, l.room, q.bound)
		}
	}
}

// A request that is larger than the whole queue is taken when nothing else waits.
func TestQueueTakesARequestLargerThanItself(t *testing.T) {
	t.Parallel()
	q := largeQueue()
	q.mustAdd(t, request("a", 1, 2*largeRoom))
	if pushedOut, ok := q.add(request("a", 1, 100<<10)); ok || len(pushedOut) > 0 {
		t.Error("and another of the same publisher beside it")
	}
	if pushedOut, ok := q.add(request("b", 1, 100<<10)); !ok || len(pushedOut) != 1 {
		t.Error("another publisher's request was not preferred")
	}
	q.check(t)
}

// What has to make room is answered, and shares are of credentials, not of names.
func TestRequestsPushedOutAreAnswered(t *testing.T) {
	t.Parallel()
	m := newMetrics(prometheus.NewRegistry())
	a := &appender{metrics: &m, queue: newQueue(smallQuantum, 8*requestRoom, sharedCost)}
	post := func(credential string) (*appendRequest, error) {
		r := request("same name", 1, 0)
		r.msgs[0].Credential = credential
		return r, a.enqueue(r)
	}
	var flood []*appendRequest
	for range 8 {
		r, err := post("one")
		if err != nil {
			t.Fatal(err)
		}
		flood = append(flood, r)
	}
	if _, err := post("one"); err != ErrOverloaded {
		t.Errorf("full: %v", err)
	}
	for i := range 4 {
		if _, err := post("two"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-flood[7-i].done:
			if flood[7-i].err != ErrOverloaded {
				t.Errorf("answered %v", flood[7-i].err)
			}
		default:
			t.Errorf("request %d of the flood was not answered", 7-i)
		}
	}
	if _, err := post("two"); err != ErrOverloaded {
		t.Errorf("full, and at its share: %v", err)
	}
	a.queue.check(t)
}

// Publishers are remembered only while they wait.
func TestQueueOfManyPublishers(t *testing.T) {
	t.Parallel()
	q := smallQueue()
	refused := 0
	for i := range 20_000 {
		if _, ok := q.add(request(fmt.Sprint(i), 1, 100)); !ok {
			refused++
		}
	}
	q.check(t)
	if q.room > q.bound || refused == 0 {
		t.Errorf("room %d of %d, %d refused", q.room, q.bound, refused)
	}
	served := map[string]bool{}
	for batch := q.gather(nil); len(batch) > 0; batch = q.gather(batch[:0]) {
		for _, r := range batch {
			served[r.publisher()] = true
		}
	}
	q.check(t)
	if len(served) != 20_000-refused || len(q.lines) != 0 || len(q.spare) > spareLines {
		t.Errorf("%d served, %d lines and %d spare ones left", len(served), len(q.lines), len(q.spare))
	}
}

// Whatever comes, in whatever order: every request leaves the queue exactly once,
// and every commit respects its bounds.
func TestQueueAccounts(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		q := newQueue(1000, 200_000, 50_000)
		in := map[*appendRequest]bool{}
		out := func(requests []*appendRequest) {
			for _, r := range requests {
				if !in[r] {
					t.Fatal("a request that is not in the queue left it")
				}
				delete(in, r)
			}
		}
		for range 3000 {
			if rnd.IntN(20) > 0 {
				bytes := rnd.IntN(1000)
				if rnd.IntN(30) == 0 {
					bytes = rnd.IntN(3 * batchBytes)
				}
				r := request(fmt.Sprint(rnd.IntN(1+rnd.IntN(20))), 1+rnd.IntN(5), bytes)
				pushedOut, ok := q.add(r)
				out(pushedOut)
				if ok {
					in[r] = true
				}
			} else {
				batch := q.gather(nil)
				msgs, bytes := 0, 0
				for _, r := range batch {
					msgs, bytes = msgs+len(r.msgs), bytes+r.bytes
				}
				if len(batch) > 1 && (msgs > batchMessages || bytes > batchBytes) || len(batch) == 0 && len(in) > 0 {
					t.Fatalf("a commit of %d requests, %d messages, %d bytes; %d wait", len(batch), msgs, bytes, len(in))
				}
				out(batch)
			}
			q.check(t)
		}
		for batch := q.gather(nil); len(batch) > 0; batch = q.gather(nil) {
			out(batch)
		}
		if len(in) > 0 {
			t.Fatalf("%d requests were never served", len(in))
		}
	}
}

// BenchmarkQueue is what the queue costs a request: added by one of many, taken in
// a batch. The channel is what it replaced.
func BenchmarkQueue(b *testing.B) {
	const batch = 64
	requests := func(publishers int) (all []*appendRequest) {
		for i := range batch {
			all = append(all, request(fmt.Sprint("publisher-", i%publishers), 1, 256))
		}
		return all
	}
	for _, publishers := range []int{1, 64} {
		b.Run(fmt.Sprint("publishers=", publishers), func(b *testing.B) {
			q, all := smallQueue(), requests(publishers)
			taken := make([]*appendRequest, 0, batch)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				q.add(all[i%batch])
				if i%batch == batch-1 {
					if taken = q.take(context.Background(), taken[:0]); len(taken) != batch {
						b.Fatal(len(taken))
					}
				}
			}
		})
	}
	b.Run("channel", func(b *testing.B) {
		ch, all := make(chan *appendRequest, 8192), requests(1)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			ch <- all[i%batch]
			if i%batch == batch-1 {
				for range batch {
					<-ch
				}
			}
		}
	})
}
