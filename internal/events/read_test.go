package events_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"restante/internal/events"
)

// fill appends n messages with payloads of a size, in as few commits as it takes.
func (r *replica) fill(t *testing.T, user string, n, size int) {
	t.Helper()
	r.known(t, user)
	var msgs []events.Message
	for range n {
		msgs = append(msgs, message(user, strings.Repeat("x", size-2)))
	}
	if _, err := r.Append(t.Context(), msgs); err != nil {
		t.Fatal(err)
	}
}

// expire lets the time of some of a user's messages be up.
func (r *replica) expire(t *testing.T, user string, seqs ...int64) {
	t.Helper()
	r.exec(t, `UPDATE events SET expires_at = now() WHERE user_id = $1 AND seq = ANY($2)`, user, seqs)
}

func (r *replica) read(t *testing.T, user string, after int64) events.Page {
	t.Helper()
	page, err := r.Read(t.Context(), user, after, 0)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// seqs names a page's events, and how far it goes.
func seqs(page events.Page) string {
	var b strings.Builder
	for _, e := range page.Events {
		fmt.Fprint(&b, e.Seq, " ")
	}
	return fmt.Sprint(b.String(), "through ", page.Through)
}

func TestReadPages(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	if got := seqs(log.read(t, "nobody", 7)); got != "through 7" {
		t.Errorf("a stream that is not there: %s", got)
	}
	log.fill(t, "many", 600, 10)
	log.fill(t, "large", 10, 100<<10)
	log.fill(t, "exact", 256, 10)
	for _, page := range []struct {
		user          string
		after         int64
		first, events int
		through       int64
	}{
		{"many", 0, 1, 256, 256},
		{"many", 256, 257, 256, 512},
		{"many", 512, 513, 88, 600},
		{"many", 600, 0, 0, 600},
		{"many", 9000, 0, 0, 9000}, // a position of another epoch
		{"large", 0, 1, 3, 3},      // the third one reaches 256 KiB
		{"large", 7, 8, 3, 10},
		{"exact", 0, 1, 256, 256},
		{"exact", 256, 0, 0, 256},
	} {
		got := log.read(t, page.user, page.after)
		if len(got.Events) != page.events || got.Through != page.through {
			t.Errorf("%s after %d: %d events through %d, want %d through %d", page.user, page.after, len(got.Events), got.Through, page.events, page.through)
			continue
		}
		for i, e := range got.Events {
			if e.Seq != int64(page.first+i) {
				t.Errorf("%s after %d: event %d has seq %d", page.user, page.after, i, e.Seq)
			}
		}
	}
}

// A page says how far it has looked: what is missing up to there is gone.
func TestExpiredEventsLeaveGaps(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.fill(t, "al", 10, 10)
	log.expire(t, "al", 1, 2, 5, 9, 10)
	for after, want := range map[int64]string{
		0: "3 4 6 7 8 through 10", 4: "6 7 8 through 10", 8: "through 10", 10: "through 10",
	} {
		if got := seqs(log.read(t, "al", after)); got != want {
			t.Errorf("after %d: %s, want %s", after, got, want)
		}
	}
	// A full page goes as far as its last event, and no further.
	log.fill(t, "bea", 300, 10)
	var gone []int64
	for seq := int64(257); seq <= 300; seq++ {
		gone = append(gone, seq)
	}
	log.expire(t, "bea", gone...)
	if page := log.read(t, "bea", 0); page.Through != 256 {
		t.Errorf("a full page goes through %d", page.Through)
	}
	if got := seqs(log.read(t, "bea", 256)); got != "through 300" {
		t.Errorf("the rest: %s", got)
	}
}

// Readers that share a statement get their own pages.
func TestReadersShareAStatement(t *testing.T) {
	t.Parallel()
	log, metrics := measured(t, startLog(t).durable.Config().ConnString())
	const users = 40
	for u := range users {
		log.fill(t, fmt.Sprint("user", u), u, 10+u)
	}
	var wg sync.WaitGroup
	for u := range users {
		for after := range int64(5) {
			wg.Go(func() {
				page, err := log.Read(t.Context(), fmt.Sprint("user", u), after, 0)
				if err != nil {
					t.Error(err)
					return
				}
				if want := max(0, int64(u)-after); int64(len(page.Events)) != want || page.Through != max(after, int64(u)) {
					t.Errorf("user %d after %d: %d events through %d", u, after, len(page.Events), page.Through)
				}
				for i, e := range page.Events {
					if e.Seq != after+int64(i)+1 || len(e.Payload) != 10+u {
						t.Errorf("user %d after %d: event %d has seq %d and %d bytes", u, after, i, e.Seq, len(e.Payload))
					}
				}
			})
		}
	}
	wg.Wait()
	if n := metric(t, metrics, "restante_reads_total"); n != users*5 {
		t.Errorf("%v reads", n)
	}
}

func TestReadIsServedFromTheTail(t *testing.T) {
	t.Parallel()
	log, metrics := measured(t, startLog(t).durable.Config().ConnString())
	log.post(t, "al", "before")
	log.Watch("al")
	seq := log.post(t, "al", "watched")
	if page, err := log.Read(t.Context(), "al", seq-1, seq); err != nil || seqs(page) != "2 through 2" {
		t.Errorf("%s, %v", seqs(page), err)
	}
	if n := metric(t, metrics, "restante_read_seconds"); n != 0 {
		t.Errorf("asked Postgres %v times", n)
	}
	log.exec(t, `UPDATE events SET payload = '"changed"'`) // who reads this has asked Postgres
	fromLog := func(after, known int64) bool {
		page, err := log.Read(t.Context(), "al", after, known)
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Events) > 0 && string(page.Events[len(page.Events)-1].Payload) == `"changed"`
	}
	if fromLog(1, 2) {
		t.Error("the tail was not asked")
	}
	for what, asked := range map[string]bool{
		"without a known head":     fromLog(1, 0),
		"from before the tail":     fromLog(0, 2),
		"a reader who looks again": fromLog(1, 1),
	} {
		if !asked {
			t.Errorf("%s: served from the tail", what)
		}
	}
	log.Unwatch("al")
	if !fromLog(1, 2) {
		t.Error("after the last session: served from the tail")
	}
}

// What has expired in the tail is the log's to tell.
func TestTailDoesNotServeExpiredEvents(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.Watch("al")
	defer log.Unwatch("al")
	m := message("al", "short")
	m.TTL = time.Millisecond
	if _, err := log.Append(t.Context(), []events.Message{message("al", "long"), m, message("al", "long")}); err != nil {
		t.Fatal(err)
	}
	until(t, "expired", func() bool {
		page, err := log.Read(t.Context(), "al", 0, 3)
		return err == nil && seqs(page) == "1 3 through 3"
	})
}
