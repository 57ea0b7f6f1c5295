package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	tuneEvery  = time.Second      // how often the collector's percentage is fitted to the heap
	spareEvery = 10 * time.Second // how often it is looked whether memory can be given back

	// garbageAim is what may become garbage before Go collects. Go's own 100 % is too
	// little for the 8 MiB of 200 busy users (60 % cost 8 % of the throughput) and too
	// much for 10,000 connections, which a third of their memory then is.
	garbageAim   = 32 << 20
	leastPercent = 60
	mostPercent  = 200
)

// memory keeps what a replica holds of the system's memory in proportion: it fits
// Go's collector to the size of the heap, and gives back what a replica that has
// become quiet does not use.
type memory struct {
	percent   int    // GOGC, as last set; 0 before
	allocated uint64 // in all, when last looked
	returned  uint64 // in all, when memory was last given back
}

// run looks until ctx ends. An operator's own GOGC stays.
func (m *memory) run(ctx context.Context) error {
	_, fixed := os.LookupEnv("GOGC")
	tune, spare := time.NewTicker(tuneEvery), time.NewTicker(spareEvery)
	defer tune.Stop()
	defer spare.Stop()
	for {
		select {
		case <-tune.C:
			if h := readHeap(); !fixed && m.tune(h.live) {
				debug.SetGCPercent(m.percent)
			}
		case <-spare.C:
			if h := readHeap(); m.spare(h.allocated, h.inUse) {
				debug.FreeOSMemory()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// tune fits the percentage to what is alive, and reports whether it has changed. It
// moves in steps, for setting it stops the world for a moment.
func (m *memory) tune(live uint64) bool {
	const step = 20
	percent := int(min(mostPercent, max(leastPercent, 100*garbageAim/max(live, 1)/step*step)))
	changed := percent != m.percent
	m.percent = percent
	return changed
}

// spare decides whether to give memory back: not while what is in use would be
// allocated anew within a few looks, for the collection would come by itself and
// the pages would be wanted again; and not unless enough may have become garbage
// since the last time.
func (m *memory) spare(allocated, inUse uint64) bool {
	lately := allocated - m.allocated
	m.allocated = allocated
	if lately > inUse/4 || allocated-m.returned < inUse/16 {
		return false
	}
	m.returned = allocated
	return true
}

// heap is Go's memory, in bytes.
type heap struct {
	allocated uint64 // in all, ever
	inUse     uint64 // what heap and stacks have of the system now
	live      uint64 // what the last collection has left of the heap, and the stacks
}

func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
	}
	metrics.Read(samples)
	stacks := samples[2].Value.Uint64()
	h := heap{allocated: samples[0].Value.Uint64(), inUse: stacks, live: samples[1].Value.Uint64() + stacks}
	for _, s := range samples[3:] {
		h.inUse += s.Value.Uint64()
	}
	return h
}
