package checker

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// world is a checker with the shorthand the tests below are written in.
type world struct {
	*Checker
	n uint64
}

const u = "user"

func (w *world) msg(publisher uint32) Message {
	w.n++
	m, _ := w.Payload(publisher, w.n, 0, 40)
	return m
}

// accept posts and accepts messages as the given seqs, all of publisher 1.
func (w *world) accept(seqs ...int64) (ms []Message) {
	for _, seq := range seqs {
		m := w.msg(1)
		w.Posted(u, m)
		w.Accepted(u, m, seq)
		ms = append(ms, m)
	}
	return ms
}

// TestKinds breaks each promise once. Every case is one step away from a clean
// run, and must be found as exactly the kind it is.
func TestKinds(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		want Kind // "" for a clean run
		run  func(w *world)
	}{
		{"all is well", "", func(w *world) {
			ms := w.accept(1, 2, 3)
			c := w.Connect(u, FromAcked)
			for i, m := range ms {
				c.Received(int64(i+1), m)
			}
			c.Confirmed(3)
			w.Stream(u, 3, 3)
		}},
		{"received before the 202", "", func(w *world) {
			m := w.msg(1)
			w.Posted(u, m)
			w.Connect(u, FromAcked).Received(1, m)
			w.Accepted(u, m, 1)
			w.Stream(u, 1, 0)
		}},
		{"repeats after a reconnect", "", func(w *world) {
			ms := w.accept(1, 2, 3)
			c := w.Connect(u, FromAcked)
			c.Received(1, ms[0])
			c.Received(2, ms[1])
			c.Confirmed(1)
			c.Closed()
			c = w.Connect(u, FromAcked)
			c.Received(1, ms[0])
			c.Received(2, ms[1])
			c.Received(3, ms[2])
			w.Stream(u, 3, 0)
		}},
		{"offline users may have messages pending", "", func(w *world) {
			w.accept(1, 2)
			w.Stream(u, 2, 0)
		}},
		{"unknown outcome, taken", "", func(w *world) {
			m := w.msg(1)
			w.Posted(u, m)
			w.Unknown(u, m)
			w.Connect(u, FromAcked).Received(1, m)
			w.Stream(u, 1, 0)
		}},
		{"unknown outcome, not taken", "", func(w *world) {
			m := w.msg(1)
			w.Posted(u, m)
			w.Unknown(u, m)
			w.Stream(u, 0, 0)
		}},
		{"unknown outcome, taken late", "", func(w *world) {
			late := w.msg(1)
			w.Posted(u, late)
			w.Unknown(u, late)
			ms := w.accept(1)
			c := w.Connect(u, FromAcked)
			c.Received(1, ms[0])
			c.Received(2, late)
			w.Stream(u, 2, 0)
		}},
		{"retry of an unknown outcome", "", func(w *world) {
			m := w.msg(1)
			w.Posted(u, m)
			w.Unknown(u, m)
			w.Posted(u, m)
			w.Accepted(u, m, 1)
			w.Posted(u, m)
			w.Accepted(u, m, 1)
			w.Connect(u, FromAcked).Received(1, m)
			w.Stream(u, 1, 0)
		}},
		{"announced gap", "", func(w *world) {
			ms := w.accept(1, 2, 3)
			c := w.Connect(u, FromAcked)
			c.Gap(1, 2)
			c.Received(3, ms[2])
			w.Stream(u, 3, 2)
		}},
		{"a second device does not wait for the first", "", func(w *world) {
			ms := w.accept(1, 2)
			a := w.Connect(u, FromAcked)
			a.Received(1, ms[0])
			a.Received(2, ms[1])
			a.Confirmed(1)
			w.Connect(u, FromAcked).Received(2, ms[1])
			w.Stream(u, 2, 1)
		}},
		{"expired before the connect", "", func(w *world) {
			ms := w.accept(1, 2)
			w.Expired(u, 1)
			w.Connect(u, FromAcked).Received(2, ms[1])
			w.Stream(u, 2, 1)
		}},
		{"a log that was not empty", "", func(w *world) {
			w.Began(u, 10, 8)
			ms := w.accept(11)
			c := w.Connect(u, FromAcked)
			c.Received(9, Message{})
			c.Received(10, Message{})
			c.Received(11, ms[0])
			c.Confirmed(11)
			w.Stream(u, 11, 11)
		}},
		{"position asked for", "", func(w *world) {
			ms := w.accept(1, 2)
			w.Connect(u, 1).Received(2, ms[1])
			w.Stream(u, 2, 0)
		}},
		{"plain frames", "", func(w *world) {
			ms := w.accept(1, 2, 3)
			late := w.msg(1)
			w.Posted(u, late)
			c := w.Connect(u, FromAcked)
			c.ReceivedPlain(ms[0])
			c.ReceivedPlain(ms[1])
			c.Closed()
			c = w.Connect(u, FromAcked)
			c.ReceivedPlain(ms[1])
			c.ReceivedPlain(ms[2])
			c.ReceivedPlain(late)
			w.Accepted(u, late, 4)
			w.Stream(u, 4, 3)
		}},
		{"first plain frame before its 202", "", func(w *world) {
			a, b := w.msg(1), w.msg(2)
			w.Posted(u, a)
			w.Posted(u, b)
			c := w.Connect(u, FromAcked)
			c.ReceivedPlain(a)
			c.ReceivedPlain(b)
			w.Accepted(u, b, 2)
			w.Accepted(u, a, 1)
			w.Stream(u, 2, 2)
		}},
		{"unnumbered answers", "", func(w *world) {
			a, b := w.msg(1), w.msg(1)
			c := w.Connect(u, FromAcked)
			w.Posted(u, a)
			c.Received(1, a)
			w.Accepted(u, a, 0)
			w.Posted(u, b)
			w.Accepted(u, b, 0)
			c.Received(2, b)
			c.Confirmed(2)
			w.Stream(u, 2, 2)
		}},

		{"hole in a connection", KindHole, func(w *world) {
			ms := w.accept(1, 2, 3)
			c := w.Connect(u, FromAcked)
			c.Received(1, ms[0])
			c.Received(3, ms[2])
			w.Stream(u, 3, 0)
		}},
		{"hole at a reconnect", KindHole, func(w *world) {
			ms := w.accept(1, 2, 3)
			c := w.Connect(u, FromAcked)
			c.Received(1, ms[0])
			c.Received(2, ms[1])
			c.Confirmed(1)
			c.Closed()
			w.Connect(u, FromAcked).Received(3, ms[2])
			w.Stream(u, 3, 1)
		}},
		{"gap that leaves a hole", KindHole, func(w *world) {
			ms := w.accept(1, 2, 3)
			c := w.Connect(u, FromAcked)
			c.Gap(2, 2)
			c.Received(3, ms[2])
			w.Stream(u, 3, 0)
		}},
		{"start behind the hello", KindHole, func(w *world) {
			ms := w.accept(1, 2)
			c := w.Connect(u, FromAcked)
			c.Received(1, ms[0])
			c.Confirmed(1)
			c.Closed()
			c = w.Connect(u, FromAcked)
			c.Hello(2, 0)
			c.Received(2, ms[1])
			w.Stream(u, 2, 1)
		}},
		{"repeat within a connection", KindRepeat, func(w *world) {
			ms := w.accept(1, 2)
			c := w.Connect(u, FromAcked)
			c.Received(1, ms[0])
			c.Received(2, ms[1])
			c.Received(2, ms[1])
			w.Stream(u, 2, 0)
		}},
		{"repeat of what the client has", KindRepeat, func(w *world) {
			ms := w.accept(1, 2)
			c := w.Connect(u, 1)
			c.Received(1, ms[0])
			c.Received(2, ms[1])
			w.Stream(u, 2, 0)
		}},
		{"content differs between connections", KindChanged, func(w *world) {
			m, other := w.msg(0), w.msg(0)
			w.Posted(u, m)
			w.Unknown(u, m)
			w.Connect(u, FromAcked).Received(1, m)
			w.Connect(u, FromAcked).Received(1, other)
			w.Stream(u, 1, 0)
		}},
		{"content differs from the 202", KindChanged, func(w *world) {
			w.accept(1)
			w.Connect(u, FromAcked).Received(1, w.msg(1))
			w.Stream(u, 1, 0)
		}},
		{"plain frames swapped", KindChanged, func(w *world) {
			ms := w.accept(1, 2, 3)
			c := w.Connect(u, FromAcked)
			c.ReceivedPlain(ms[0])
			c.ReceivedPlain(ms[2])
			c.Closed()
			w.Stream(u, 3, 0)
		}},
		{"plain frame skipped at a reconnect", KindHole, func(w *world) {
			ms := w.accept(1, 2, 3)
			c := w.Connect(u, FromAcked)
			c.ReceivedPlain(ms[0])
			c.Closed()
			w.Connect(u, FromAcked).ReceivedPlain(ms[2])
			w.Stream(u, 3, 1)
		}},
		{"one seq for two messages", KindChanged, func(w *world) { w.accept(1, 1) }},
		{"order lost in the answers", KindOrder, func(w *world) {
			w.accept(2, 1)
			w.Stream(u, 2, 0)
		}},
		{"order lost in delivery", KindOrder, func(w *world) {
			a, b := w.msg(1), w.msg(1)
			c := w.Connect(u, FromAcked)
			for _, m := range []Message{a, b} {
				w.Posted(u, m)
				w.Accepted(u, m, 0)
			}
			c.Received(1, b)
			c.Received(2, a)
			w.Stream(u, 2, 0)
		}},
		{"retry made a second message", KindOrder, func(w *world) {
			m := w.msg(1)
			for seq := range int64(2) {
				w.Posted(u, m)
				w.Accepted(u, m, seq+1)
			}
			c := w.Connect(u, FromAcked)
			c.Received(1, m)
			c.Received(2, m)
			w.Stream(u, 2, 0)
		}},
		{"delivered though refused", KindInvented, func(w *world) {
			m := w.msg(1)
			w.Posted(u, m)
			w.Refused(u, m)
			w.Connect(u, FromAcked).Received(1, m)
			w.Stream(u, 1, 0)
		}},
		{"delivered though never posted", KindInvented, func(w *world) {
			w.Connect(u, FromAcked).Received(1, w.msg(1))
			w.Stream(u, 1, 0)
		}},
		{"absurd seq", KindInvented, func(w *world) {
			w.Connect(u, FromAcked).Received(1<<60, w.msg(1))
		}},
		{"unknown outcome taken twice", KindInvented, func(w *world) {
			m := w.msg(0)
			w.Posted(u, m)
			w.Unknown(u, m)
			c := w.Connect(u, FromAcked)
			c.Received(1, m)
			c.Received(2, m)
			w.Stream(u, 2, 0)
		}},
		{"accepted but not in the log", KindLost, func(w *world) {
			w.accept(1, 2)
			w.Stream(u, 1, 0)
		}},
		{"hole in the log", KindLost, func(w *world) {
			w.accept(1, 3)
			w.Stream(u, 3, 0)
		}},
		{"head counts what nobody posted", KindLost, func(w *world) {
			w.accept(1)
			w.Stream(u, 2, 0)
		}},
		{"unnumbered and never delivered", KindLost, func(w *world) {
			m := w.msg(1)
			w.Posted(u, m)
			w.Accepted(u, m, 0)
			w.Connect(u, FromAcked).Closed()
			w.Stream(u, 0, 0)
		}},
		{"live and not served", KindStranded, func(w *world) {
			ms := w.accept(1, 2)
			w.Connect(u, FromAcked).Received(1, ms[0])
			w.Stream(u, 2, 0)
		}},
		{"second device not served", KindStranded, func(w *world) {
			ms := w.accept(1, 2)
			a, b := w.Connect(u, FromAcked), w.Connect(u, FromAcked)
			a.Received(1, ms[0])
			a.Received(2, ms[1])
			b.Received(1, ms[0])
			a.Confirmed(2)
			w.Stream(u, 2, 2)
		}},
		{"acked beyond what was confirmed", KindAcked, func(w *world) {
			ms := w.accept(1)
			w.Connect(u, FromAcked).Received(1, ms[0])
			w.Stream(u, 1, 1)
		}},
		{"hello beyond what was confirmed", KindAcked, func(w *world) {
			w.accept(1)
			c := w.Connect(u, FromAcked)
			c.Hello(1, 1)
			c.Closed()
			w.Stream(u, 1, 0)
		}},
		{"client confirms what it never saw", KindMisuse, func(w *world) {
			w.accept(1)
			c := w.Connect(u, FromAcked)
			c.Confirmed(1)
			c.Closed()
			w.Stream(u, 1, 0)
		}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := &world{Checker: New()}
			tc.run(w)
			r := w.Report()
			if tc.want == "" {
				if !r.Clean() {
					t.Fatalf("a legal run is called broken: %v", r)
				}
				return
			}
			if r.Kinds[tc.want] == 0 || r.Count != r.Kinds[tc.want] {
				t.Fatalf("want %q and nothing else, got %v", tc.want, r)
			}
			if !strings.HasPrefix(r.Violations[0], string(tc.want)+": user "+u) {
				t.Errorf("violation does not name its kind and user: %q", r.Violations[0])
			}
			if again := w.Report(); again.Count != r.Count {
				t.Errorf("a second report counts %d, the first %d", again.Count, r.Count)
			}
		})
	}
}

func TestWaiting(t *testing.T) {
	t.Parallel()
	w := &world{Checker: New()}
	ms := w.accept(1, 2, 3)
	want := func(n int64) {
		t.Helper()
		if got := w.Waiting(); got != n {
			t.Fatalf("Waiting() = %d, want %d", got, n)
		}
	}
	want(0) // nobody is connected
	c := w.Connect(u, FromAcked)
	want(3)
	c.Received(1, ms[0])
	want(2)
	d := w.Connect(u, FromAcked)
	want(5)
	d.Closed()
	c.Received(2, ms[1])
	c.Received(3, ms[2])
	want(0)
}

func TestPayload(t *testing.T) {
	t.Parallel()
	c := New()
	m, p := c.Payload(7, 1<<40, -5, 256)
	if len(p) != 256 {
		t.Fatalf("payload has %d bytes", len(p))
	}
	for _, text := range [][]byte{p, p[1 : len(p)-1]} {
		got, sent, ok := c.Parse(text)
		if !ok || got != m || sent != -5 {
			t.Errorf("Parse(%.30q) = %v %d %v, want %v -5 true", text, got, sent, ok, m)
		}
	}
	if _, _, ok := c.Parse([]byte(`{"a":1}`)); ok {
		t.Error("a foreign payload was taken for one of ours")
	}
	if _, p := c.Payload(1, 2, 3, 0); string(p) != `"p1 n2 t3 "` {
		t.Errorf("smallest payload: %q", p)
	}
}

// TestRandom runs a correct server in miniature under publishers, devices,
// lost acknowledgements and reconnects: whatever the interleaving, the checker
// must find nothing. One fault put into the same run must be found.
func TestRandom(t *testing.T) {
	t.Parallel()
	for _, fault := range []string{"", "skip", "swap"} {
		t.Run("fault "+fault, func(t *testing.T) {
			t.Parallel()
			c := New()
			var group sync.WaitGroup
			for i := range 8 {
				group.Go(func() { simulate(c, fmt.Sprint("user-", i), uint64(i), fault) })
			}
			group.Wait()
			r := c.Report()
			if fault == "" && (!r.Clean() || r.Users != 8 || r.Received < r.Accepted) {
				t.Fatalf("clean run: %v", r)
			}
			if fault != "" && r.Count < 8 {
				t.Fatalf("a fault for each of 8 users, found: %v", r)
			}
		})
	}
}

func simulate(c *Checker, name string, seed uint64, fault string) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	var log []Message
	var acked, confirmed int64
	type device struct {
		conn *Conn
		at   int64
	}
	devices := make([]device, 2)
	counts := make([]uint64, 3)
	for step := range 3000 {
		switch d := &devices[rnd.IntN(2)]; rnd.IntN(6) {
		case 0, 1:
			p := rnd.IntN(len(counts))
			counts[p]++
			m, _ := c.Payload(uint32(p+1), counts[p], int64(step), 60)
			c.Posted(name, m)
			switch rnd.IntN(10) {
			case 0:
				c.Refused(name, m)
			case 1:
				c.Unknown(name, m)
				if rnd.IntN(2) == 0 {
					log = append(log, m)
				}
			default:
				log = append(log, m)
				c.Accepted(name, m, int64(len(log)))
			}
		case 2:
			if d.conn == nil {
				d.conn, d.at = c.Connect(name, FromAcked), acked
			}
		case 3:
			for d.conn != nil && d.at < int64(len(log)) && rnd.IntN(4) > 0 {
				if fault == "skip" && step > 2000 && d.at+1 < int64(len(log)) {
					d.at++
				}
				m := log[d.at]
				if fault == "swap" && step > 2000 {
					m = log[rnd.IntN(len(log))]
				}
				d.at++
				d.conn.Received(d.at, m)
			}
		case 4:
			if d.conn != nil && d.at > confirmed {
				d.conn.Confirmed(d.at)
				if confirmed = d.at; rnd.IntN(3) > 0 {
					acked = confirmed
				}
			}
		case 5:
			if d.conn != nil && rnd.IntN(5) == 0 {
				d.conn.Closed()
				d.conn = nil
			}
		}
	}
	for _, d := range devices {
		for d.conn != nil && d.at < int64(len(log)) {
			d.at++
			d.conn.Received(d.at, log[d.at-1])
		}
	}
	c.Stream(name, int64(len(log)), acked)
}

func BenchmarkMessage(b *testing.B) {
	c := New()
	names := make([]string, 200)
	conns := make([]*Conn, len(names))
	for i := range names {
		names[i] = fmt.Sprint("bench-", i)
		conns[i] = c.Connect(names[i], FromAcked)
	}
	payload := AppendPayload(nil, 1, 1, 1, 256)
	b.ReportAllocs()
	for i := range b.N {
		k, seq := i%len(names), int64(i/len(names))+1
		m := Message{Publisher: uint32(k%64) + 1, N: uint64(i) + 1, Digest: c.Digest(payload) + uint64(i)}
		c.Posted(names[k], m)
		c.Accepted(names[k], m, seq)
		conns[k].Received(seq, m)
		conns[k].Confirmed(seq)
	}
	if r := c.Report(); !r.Clean() {
		b.Fatal(r)
	}
}
