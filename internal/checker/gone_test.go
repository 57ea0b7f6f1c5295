package checker

import (
	"testing"
	"time"
)

// TestGone gives messages up, by a gap or by acked, that have expired and that
// have not.
func TestGone(t *testing.T) {
	t.Parallel()
	past, future := time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	// post posts a message that expires then, and has it accepted; seq 0 is of
	// unknown outcome.
	post := func(w *world, until time.Time, seq int64) Message {
		m := w.msg(1)
		m.Until = until
		w.Posted(u, m)
		if seq == 0 {
			w.Unknown(u, m)
		} else {
			w.Accepted(u, m, seq)
		}
		return m
	}
	for _, c := range []struct {
		name string
		want Kind // "" for a clean run
		run  func(w *world)
	}{
		{"gap over what has expired", "", func(w *world) {
			post(w, past, 1)
			m := post(w, future, 2)
			c := w.Connect(u, FromAcked)
			c.Gap(1, 1)
			c.Received(2, m)
			w.Stream(u, 2, 1)
		}},
		{"gap over what has not", KindLost, func(w *world) {
			post(w, future, 1)
			m := post(w, future, 2)
			c := w.Connect(u, FromAcked)
			c.Gap(1, 1)
			c.Received(2, m)
			w.Stream(u, 2, 1)
		}},
		{"gap before the 202", KindLost, func(w *world) {
			m := w.msg(1)
			m.Until = future
			w.Posted(u, m)
			w.Connect(u, FromAcked).Gap(1, 1)
			w.Accepted(u, m, 1)
			w.Stream(u, 1, 1)
		}},
		{"gap that came too early", KindLost, func(w *world) {
			soon := time.Now().Add(50 * time.Millisecond)
			post(w, soon, 1)
			w.Connect(u, FromAcked).Gap(1, 1)
			for time.Now().Before(soon) {
			}
			w.Connect(u, FromAcked).Gap(1, 1)
			w.Stream(u, 1, 1)
		}},
		{"gap over one of unknown outcome", "", func(w *world) {
			post(w, past, 0)
			w.Connect(u, FromAcked).Gap(1, 1)
			w.Stream(u, 1, 1)
		}},
		{"gap over one of unknown outcome that has not expired", KindLost, func(w *world) {
			post(w, future, 0)
			w.Connect(u, FromAcked).Gap(1, 1)
			w.Stream(u, 1, 1)
		}},
		{"gap over one of unknown outcome that was received and has not expired", KindLost, func(w *world) {
			m := post(w, future, 0)
			w.Connect(u, FromAcked).Received(1, m)
			w.Connect(u, FromAcked).Gap(1, 1)
			w.Stream(u, 1, 1)
		}},
		{"the same one accounts for one seq only", KindLost, func(w *world) {
			m := post(w, past, 0)
			c := w.Connect(u, FromAcked)
			c.Received(1, m)
			c.Gap(2, 2)
			w.Stream(u, 2, 2)
		}},
		{"acked over what has expired", "", func(w *world) {
			post(w, past, 1)
			m := post(w, future, 2)
			c := w.Connect(u, FromAcked)
			c.Hello(2, 0)
			c.Gap(1, 1)
			c.Received(2, m)
			w.Stream(u, 2, 1)
		}},
		{"hello says acked over what has expired, unannounced", KindAcked, func(w *world) {
			post(w, past, 1)
			m := post(w, future, 2)
			c := w.Connect(u, FromAcked)
			c.Hello(2, 1)
			c.Received(2, m)
			w.Stream(u, 2, 1)
		}},
		{"acked is in the end over what has not", KindLost, func(w *world) {
			post(w, past, 1)
			post(w, future, 2)
			w.Stream(u, 2, 2)
		}},
		{"acked is said to be over what has not", KindLost, func(w *world) {
			post(w, future, 1)
			w.Expired(u, 1)
			w.Stream(u, 1, 1)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := &world{Checker: New()}
			c.run(w)
			r := w.Report()
			if c.want == "" && !r.Clean() || c.want != "" && (r.Kinds[c.want] == 0 || r.Kinds[c.want] != r.Count) {
				t.Errorf("want %q, found: %v", c.want, r)
			}
		})
	}
}

func TestSeen(t *testing.T) {
	t.Parallel()
	w := &world{Checker: New()}
	ms := w.accept(1, 2)
	w.Connect(u, 1).Received(2, ms[1])
	for seq, want := range map[int64]bool{0: false, 1: false, 2: true, 3: false} {
		if w.Seen(u, seq) != want {
			t.Errorf("seq %d: %v", seq, !want)
		}
	}
}
