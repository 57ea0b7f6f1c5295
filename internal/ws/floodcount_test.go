package ws

import (
	"testing"
	"time"
)

func TestFloodCount(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	var f flood
	for seq := range int64(100_000) { // every ack confirms something
		if f.take(now) {
			t.Fatal("an honest client is over the limit")
		}
		f.ack(seq + 1)
	}
	n := 0
	for !f.take(now) {
		f.ack(5) // which is confirmed
		n++
	}
	if n != idleBurst {
		t.Errorf("%d frames at once", n)
	}
	f = flood{}
	for range 10_000 {
		if f.take(now) {
			t.Fatal("at the limit's own rate")
		}
		now = now.Add(time.Second / idleFrames)
	}
}
