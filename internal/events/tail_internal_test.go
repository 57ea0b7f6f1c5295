package events

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
	"weak"
)

// numbered is an event that says its own seq.
func numbered(seq int64, size int) Event {
	payload := make([]byte, max(size, 8))
	binary.BigEndian.PutUint64(payload, uint64(seq))
	return Event{Seq: seq, Payload: payload, ExpiresAt: time.Now().Add(time.Hour)}
}

func (t *tail) has(user string, after int64) (seqs []int64) {
	found, _ := t.read(user, after, 1000, time.Now())
	for _, e := range found {
		seqs = append(seqs, e.Seq)
	}
	return seqs
}

func TestTailHoldsTheNewestWithoutAHole(t *testing.T) {
	tail := newTail()
	tail.push("nobody watches", numbered(1, 0))
	tail.watch("al")
	for seq := int64(1); seq <= 200; seq++ {
		tail.push("al", numbered(seq, 0))
		for after := seq - 70; after <= seq+1; after++ {
			got := tail.has("al", after)
			if len(got) == 0 {
				continue
			}
			if got[0] != after+1 || got[len(got)-1] != seq || int64(len(got)) != seq-after {
				t.Fatalf("head %d, after %d: %v", seq, after, got)
			}
		}
		if got := tail.has("al", seq-1); len(got) != 1 {
			t.Fatalf("the newest, %d, is not there: %v", seq, got)
		}
	}
	if got := tail.has("al", 200-tailEvents/2); len(got) != tailEvents/2 {
		t.Errorf("only %d events are held", len(got))
	}
	if got := tail.has("nobody watches", 0); got != nil {
		t.Errorf("held for nobody: %v", got)
	}
	tail.push("al", numbered(250, 0)) // somebody else's lie between
	if got := tail.has("al", 199); got != nil {
		t.Errorf("from before the jump: %v", got)
	}
	if got := tail.has("al", 249); len(got) != 1 {
		t.Errorf("after the jump: %v", got)
	}
}

func TestTailCountsWatchers(t *testing.T) {
	tail := newTail()
	tail.watch("al")
	tail.watch("al")
	tail.push("al", numbered(1, 0))
	tail.unwatch("al")
	if got := tail.has("al", 0); len(got) != 1 {
		t.Errorf("one session is left: %v", got)
	}
	tail.unwatch("al")
	tail.unwatch("al")
	tail.watch("al")
	if got := tail.has("al", 0); got != nil {
		t.Errorf("from before the last session left: %v", got)
	}
}

func TestTailKeepsToItsLimitOfBytes(t *testing.T) {
	tail := newTail()
	for u := range 40 {
		tail.watch(fmt.Sprint("user", u))
	}
	for seq := int64(1); seq <= 30; seq++ {
		for u := range 40 {
			tail.push(fmt.Sprint("user", u), numbered(seq, 64<<10))
		}
		if tail.bytes > tailBytes {
			t.Fatalf("%d bytes", tail.bytes)
		}
	}
	for u := range 40 {
		if got := tail.has(fmt.Sprint("user", u), 29); len(got) != 1 {
			t.Errorf("user %d has lost the newest", u)
		}
		if got := tail.has(fmt.Sprint("user", u), 10); got != nil {
			t.Errorf("user %d still has what is old: %v", u, got)
		}
	}
}

// The counter-example: an event is dropped from a run by cutting the slice. Its
// array stays, with the payload: 64 for each user who was ever sent something.
func TestTailLetsGoOfWhatItDrops(t *testing.T) {
	tail := newTail()
	const users, each, size = 100, 20, 64 << 10 // 128 MiB in all
	var payloads []weak.Pointer[byte]
	for u := range users {
		tail.watch(fmt.Sprint("user", u))
		for seq := int64(1); seq <= each; seq++ {
			e := numbered(seq, size)
			payloads = append(payloads, weak.Make(&e.Payload[0]))
			tail.push(fmt.Sprint("user", u), e)
		}
	}
	runtime.GC()
	alive := 0
	for _, p := range payloads {
		if p.Value() != nil {
			alive++
		}
	}
	if alive*size > 2*tailBytes {
		t.Errorf("%d MiB of payloads are alive, the limit is %d", alive*size>>20, tailBytes>>20)
	}
	runtime.KeepAlive(tail)
}

// Readers hold slices of the tail while it changes: what they hold must not.
func TestTailDoesNotChangeWhatWasRead(t *testing.T) {
	tail := newTail()
	tail.watch("al")
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for after := int64(0); ; {
				select {
				case <-stop:
					return
				default:
				}
				found, ok := tail.read("al", after, 16, time.Now())
				if !ok {
					after++
					if after > 20000 {
						after = 0
					}
					continue
				}
				for i := range found {
					if seq := int64(binary.BigEndian.Uint64(found[i].Payload)); seq != after+1 || found[i].Seq != seq {
						t.Errorf("after %d: seq %d with the payload of %d", after, found[i].Seq, seq)
						return
					}
					after++
				}
				_ = append(found, Event{}) // must not reach the tail's own array
			}
		})
	}
	for seq := int64(1); seq <= 20000; seq++ {
		tail.push("al", numbered(seq, 2048)) // so that some are dropped for their bytes
		if got := tail.has("al", seq-1); len(got) != 1 || got[0] != seq {
			t.Errorf("the newest, %d: %v", seq, got)
			break
		}
	}
	close(stop)
	wg.Wait()
}
