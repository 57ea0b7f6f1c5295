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

// What is given back is really gone: the sum that decides counts no page that Go
// has released.
func TestReadHeapFollowsWhatIsReleased(t *testing.T) {
	garbage := make([]byte, 64<<20)
	allocated, before := readHeap()
	if allocated < uint64(len(garbage)) || before < uint64(len(garbage)) {
		t.Fatalf("%d allocated, %d in use", allocated, before)
	}
	runtime.KeepAlive(garbage)
	debug.FreeOSMemory()
	if _, after := readHeap(); after > before-32<<20 {
		t.Errorf("%d in use, %d before 64 MiB were given back", after, before)
	}
}
