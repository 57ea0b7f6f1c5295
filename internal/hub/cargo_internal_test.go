package hub

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"restante/internal/events"
)

func entry(user string, seq int64, size int) events.Entry {
	at := time.UnixMicro(1_700_000_000_123_456)
	return events.Entry{UserID: user, Event: events.Event{
		Seq: seq, Payload: []byte(`"` + strings.Repeat("x", size) + `"`), Type: "note", Traceparent: "00-ab-cd-01",
		CreatedAt: at, ExpiresAt: at.Add(time.Hour),
	}}
}

// loaded is the cargo of some commits.
func loaded(commits ...[]events.Entry) []byte {
	var c cargo
	for _, entries := range commits {
		c.load(slices.Values(entries))
	}
	return c.bytes
}

func TestCargoComesOutAsItWentIn(t *testing.T) {
	t.Parallel()
	bare := events.Entry{UserID: "bea", Event: events.Event{Seq: 1 << 60, Payload: []byte("1"), CreatedAt: time.UnixMicro(1), ExpiresAt: time.UnixMicro(2)}}
	want := []events.Entry{entry("al", 1, 256), bare, entry(strings.Repeat("ü", 128), 7, 1000)}
	got, err := parseCargo(loaded(want[:1], want[1:]))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v\nwant %v", got, err, want)
	}
}

// What is kept of a cargo must not keep the rest of it.
func TestCargoIsCopied(t *testing.T) {
	t.Parallel()
	cargo := loaded([]events.Entry{entry("al", 1, 10)})
	got, err := parseCargo(cargo)
	if err != nil {
		t.Fatal(err)
	}
	want := string(got[0].Payload)
	clear(cargo)
	if string(got[0].Payload) != want {
		t.Error("the payload is a part of the cargo")
	}
}

func TestCargoIsBounded(t *testing.T) {
	t.Parallel()
	var c cargo
	for i := range 100 {
		c.load(slices.Values([]events.Entry{entry("al", int64(i+1), 256)}))
	}
	got, err := parseCargo(c.bytes)
	if err != nil || len(c.bytes) > carryBytes || len(got) < 10 || len(got) != c.entries {
		t.Errorf("%d bytes, %d entries, counted %d: %v", len(c.bytes), len(got), c.entries, err)
	}
	for i, e := range got {
		if e.Seq != int64(i+1) {
			t.Fatalf("entry %d is seq %d: one before it was left out", i, e.Seq)
		}
	}
	c = cargo{}
	c.load(slices.Values([]events.Entry{entry("al", 1, 64<<10), entry("bea", 1, 10)}))
	if c.entries != 0 {
		t.Errorf("%d entries behind one that finds no room", c.entries)
	}
}

// FuzzParseCargo: whatever comes out goes in again, and nothing panics.
func FuzzParseCargo(f *testing.F) {
	f.Add(loaded([]events.Entry{entry("al", 1, 20), entry("bea", 2, 3)}))
	f.Add([]byte{})
	f.Add([]byte{cargoVersion})
	f.Add([]byte{cargoVersion, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, cargo []byte) {
		entries, err := parseCargo(cargo)
		if err != nil {
			return
		}
		size := 1
		for _, e := range entries {
			size += entryBytes(e)
		}
		if size > carryBytes {
			return
		}
		if len(entries) == 0 {
			return
		}
		again, err := parseCargo(loaded(entries))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(entries) {
			t.Errorf("%v\nagain: %v, %v", entries, again, err)
		}
	})
}
