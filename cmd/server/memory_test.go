package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// The counter-examples: a replica under load, whose pages would be wanted again
// at once; and one that has been quiet for long and would only collect in vain.
func TestMemoryIsGivenBackWhenQuiet(t *testing.T) {
	t.Parallel()
	var m memory
	allocated := uint64(0)
	for i, look := range []struct {
		lately, inUse uint64
		spare         bool
	}{
		{100, 100, false}, // clients are connecting
		{12, 100, true},   // quiet
		{1, 50, false},    // hardly anything since
		{1, 50, false},
		{1, 50, true},    // a sixteenth of it, in the end
		{30, 50, false},  // messages
		{300, 80, false}, // more of them
		{10, 80, true},   // quiet again
	} {
		allocated += look.lately
		if got := m.spare(allocated, look.inUse); got != look.spare {
			t.Errorf("look %d, %d allocated lately, %d in use: %v", i, look.lately, look.inUse, got)
		}
	}
}

// A small heap is collected less often than Go would, a large one more often; and
// what moves only a little changes nothing.
func TestCollectorFollowsTheHeap(t *testing.T) {
	t.Parallel()
	var m memory
	for _, look := range []struct {
		live    uint64
		percent int
		changed bool
	}{
		{0, 200, true}, {8 << 20, 200, false}, {20 << 20, 160, true}, {21 << 20, 140, true}, {22 << 20, 140, false},
		{80 << 20, 60, true}, {1 << 30, 60, false}, {8 << 20, 200, true},
	} {
		if changed := m.tune(look.live); changed != look.changed || m.percent != look.percent {
			t.Errorf("%d alive: %d %%, changed %v; want %d, %v", look.live, m.percent, changed, look.percent, look.changed)
		}
	}
}

// What is given back is really gone: the sum that decides counts no page that Go
// has released.
func TestReadHeapFollowsWhatIsReleased(t *testing.T) {
	garbage := make([]byte, 64<<20)
	before := readHeap()
	if before.allocated < uint64(len(garbage)) || before.inUse < uint64(len(garbage)) {
		t.Fatalf("%+v", before)
	}
	runtime.KeepAlive(garbage)
	debug.FreeOSMemory()
	after := readHeap()
	if after.inUse > before.inUse-32<<20 {
		t.Errorf("%d in use, %d before 64 MiB were given back", after.inUse, before.inUse)
	}
	if after.live == 0 || after.live > after.inUse {
		t.Errorf("%+v", after)
	}
}
