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

// encoded is the content of some heads and commits.
func encoded(heads []events.Head, commits ...[]events.Entry) []byte {
	var c content
	for _, h := range heads {
		c.addHead(h.UserID, h.Seq)
	}
	for _, entries := range commits {
		c.events.add(slices.Values(entries))
	}
	return c.encode()
}

func TestContentComesOutAsItWentIn(t *testing.T) {
	t.Parallel()
	bare := events.Entry{UserID: "bea", Event: events.Event{Seq: 1 << 60, Payload: []byte("1"), CreatedAt: time.UnixMicro(1), ExpiresAt: time.UnixMicro(2)}}
	want := []events.Entry{entry("al", 1, 256), bare, entry(strings.Repeat("ü", 128), 7, 1000)}
	heads := []events.Head{{UserID: "al", Seq: 1}, {UserID: "bea"}, {UserID: strings.Repeat("ü", 128), Seq: 1 << 60}}
	gotHeads, got, err := parseContent(encoded(heads, want[:1], want[1:]))
	if err != nil || !reflect.DeepEqual(got, want) || !slices.Equal(gotHeads, heads) {
		t.Errorf("%v, %v, %v\nwant %v, %v", gotHeads, got, err, heads, want)
	}
}

// What is kept of a notification must not keep the rest of it.
func TestReceivedPayloadIsCopied(t *testing.T) {
	t.Parallel()
	content := encoded(nil, []events.Entry{entry("al", 1, 10)})
	_, got, err := parseContent(content)
	if err != nil {
		t.Fatal(err)
	}
	want := string(got[0].Payload)
	clear(content)
	if string(got[0].Payload) != want {
		t.Error("the payload is a part of the notification")
	}
}

func TestEventsThatGoAlongAreBounded(t *testing.T) {
	t.Parallel()
	var c content
	for i := range 100 {
		c.events.add(slices.Values([]events.Entry{entry("al", int64(i+1), 256)}))
	}
	_, got, err := parseContent(c.encode())
	if err != nil || len(c.events.bytes) > eventBytes || len(got) < 10 || len(got) != c.events.n {
		t.Errorf("%d bytes, %d entries, counted %d: %v", len(c.events.bytes), len(got), c.events.n, err)
	}
	for i, e := range got {
		if e.Seq != int64(i+1) {
			t.Fatalf("entry %d is seq %d: one before it was left out", i, e.Seq)
		}
	}
	for i := 0; !c.full(strings.Repeat("u", 256)); i++ {
		c.addHead(strings.Repeat("u", 256), int64(i))
	}
	if n := len(c.encode()); n > contentBytes || n < contentBytes-600 {
		t.Errorf("%d bytes are full", n)
	}
	c = content{}
	c.events.add(slices.Values([]events.Entry{entry("al", 1, 64<<10), entry("bea", 1, 10)}))
	if c.events.n != 0 {
		t.Errorf("%d entries behind one that finds no room", c.events.n)
	}
}

// FuzzParseContent: whatever comes out goes in again, and nothing panics.
func FuzzParseContent(f *testing.F) {
	heads := []events.Head{{UserID: "al", Seq: 7}, {UserID: "bea"}}
	f.Add(encoded(heads, []events.Entry{entry("al", 1, 20), entry("bea", 2, 3)}))
	f.Add(encoded(heads))
	f.Add([]byte{})
	f.Add([]byte{contentVersion})
	f.Add([]byte{contentVersion, 0, 1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{contentVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, content []byte) {
		heads, entries, err := parseContent(content)
		if err != nil {
			return
		}
		size := 0
		for _, e := range entries {
			size += entryBytes(e)
		}
		if size > eventBytes {
			return
		}
		againHeads, again, err := parseContent(encoded(heads, entries))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(entries) || !slices.Equal(againHeads, heads) {
			t.Errorf("%v, %v\nagain: %v, %v, %v", heads, entries, againHeads, again, err)
		}
	})
}
