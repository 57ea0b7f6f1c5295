package events_test

import (
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"

	"restante/internal/events"
	"restante/internal/testdb"
)

// told records what a Log tells of its commits.
type told struct {
	mu      sync.Mutex // guards all below
	heads   []events.Head
	entries []string // user, seq and payload
	whole   []events.Entry
}

func (d *told) onCommit(heads []events.Head, entries iter.Seq[events.Entry]) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.heads = append(d.heads, heads...)
	for e := range entries {
		d.entries = append(d.entries, fmt.Sprintf("%s %d %s", e.UserID, e.Seq, e.Payload))
		d.whole = append(d.whole, e)
	}
}

// take returns what was told since the last time.
func (d *told) take() (heads []events.Head, entries []string, whole []events.Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	heads, entries, whole = d.heads, d.entries, d.whole
	d.heads, d.entries, d.whole = nil, nil, nil
	return heads, entries, whole
}

// The counter-example: most users are away, and every message for one of them made
// every replica look who it is.
func TestNobodyIsToldOfUsersWhoAreAway(t *testing.T) {
	t.Parallel()
	var told told
	log := startLog(t, func(cfg *events.Config) { cfg.OnCommit = told.onCommit })
	wants := func(when string, heads []events.Head, entries ...string) {
		t.Helper()
		gotHeads, gotEntries, _ := told.take()
		if !slices.Equal(gotHeads, heads) || !slices.Equal(gotEntries, entries) {
			t.Errorf("%s: told of %v, %v; want %v, %v", when, gotHeads, gotEntries, heads, entries)
		}
	}
	log.post(t, "al", "1")
	wants("nobody knows yet whether he is connected", []events.Head{{UserID: "al", Seq: 1}}, `al 1 "1"`)
	log.beat(t, "one")
	log.settle(t, "al")
	log.wantLane(t, "nobody is connected", "al", events.Parked, 1)
	log.attach(t, "of bea", "bea")

	keyed := message("al", "3")
	keyed.Key = "k"
	log.post(t, "al", "2")
	for range 2 {
		if _, err := log.Append(t.Context(), []events.Message{keyed, message("bea", "1")}); err != nil {
			t.Fatal(err)
		}
	}
	wants("al is away", []events.Head{{UserID: "bea", Seq: 1}, {UserID: "bea", Seq: 2}}, `bea 1 "1"`, `bea 2 "1"`)

	log.attach(t, "s1", "al")
	log.post(t, "al", "4")
	if _, err := log.Append(t.Context(), []events.Message{keyed, message("al", "5")}); err != nil {
		t.Fatal(err)
	}
	wants("al is back", []events.Head{{UserID: "al", Seq: 4}, {UserID: "al", Seq: 5}}, `al 4 "4"`, `al 5 "5"`)
}

// What another replica tells is at hand as if it had been committed here.
func TestWhatOthersTellIsNotRead(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	var told told
	elsewhere := startLogOn(t, url, func(cfg *events.Config) { cfg.OnCommit = told.onCommit })
	here, metrics := measured(t, url)
	here.Watch("al")
	here.known(t, "al", "bea")
	var want []events.Event
	hear := func() {
		_, _, entries := told.take()
		here.Received(entries)
		for _, e := range entries {
			want = append(want, e.Event)
		}
	}
	typed := message("al", "typed")
	typed.Type, typed.Traceparent = "note", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if _, err := elsewhere.Append(t.Context(), []events.Message{message("al", "1"), typed, message("bea", "1")}); err != nil {
		t.Fatal(err)
	}
	hear()
	elsewhere.post(t, "al", "3")
	hear()
	page, err := here.Read(t.Context(), "al", 0, 3)
	if err != nil || page.Through != 3 || fmt.Sprint(page.Events) != fmt.Sprint([]events.Event{want[0], want[1], want[3]}) {
		t.Errorf("read %v, %v; want %v", page, err, want)
	}
	// A position within, and one before what was heard.
	if page, err = here.Read(t.Context(), "al", 2, 3); err != nil || len(page.Events) != 1 || page.Through != 3 {
		t.Errorf("after 2: %v, %v", page, err)
	}
	if n := metric(t, metrics, "restante_read_seconds"); n != 0 {
		t.Errorf("Postgres was asked %v times", n)
	}
	// What was missed is read, and with it what came after.
	elsewhere.post(t, "al", "4")
	told.take()
	elsewhere.post(t, "al", "5")
	hear()
	if page, err = here.Read(t.Context(), "al", 3, 5); err != nil || len(page.Events) != 2 || page.Through != 5 {
		t.Errorf("after 3: %v, %v", page, err)
	}
	if n := metric(t, metrics, "restante_read_seconds"); n != 1 {
		t.Errorf("Postgres was asked %v times, want once", n)
	}
	// And is the same in the log.
	fresh, err := elsewhere.Read(t.Context(), "al", 0, 0)
	if err != nil || len(fresh.Events) != 5 {
		t.Fatalf("%v, %v", fresh, err)
	}
	for i, e := range fresh.Events[:3] {
		told := []events.Event{want[0], want[1], want[3]}[i]
		if e.Seq != told.Seq || string(e.Payload) != string(told.Payload) || e.Type != told.Type || e.Traceparent != told.Traceparent ||
			!e.CreatedAt.Equal(told.CreatedAt) || !e.ExpiresAt.Equal(told.ExpiresAt) {
			t.Errorf("the log has %+v, told was %+v", e, told)
		}
	}
}
