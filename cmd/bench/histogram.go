package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets of less than 2 % width, so that
// percentiles are exact enough and nothing grows with the number of messages.
// Safe for concurrent use.
type histogram struct {
	buckets [64 << histogramBits]atomic.Uint64
	count   atomic.Uint64
	highest atomic.Int64
}

// histogramBits is how many bits below the highest one tell buckets apart.
const histogramBits = 6

func bucketOf(n uint64) int {
	shift := max(0, bits.Len64(n)-histogramBits-1)
	return shift<<histogramBits + int(n>>shift)
}

// middleOf is the value in the middle of a bucket.
func middleOf(bucket int) uint64 {
	shift := max(0, bucket>>histogramBits-1)
	low := uint64(bucket-shift<<histogramBits) << shift
	return low + (uint64(1)<<shift)/2
}

func (h *histogram) record(d time.Duration) {
	d = max(0, d)
	h.buckets[bucketOf(uint64(d))].Add(1)
	h.count.Add(1)
	for {
		was := h.highest.Load()
		if int64(d) <= was || h.highest.CompareAndSwap(was, int64(d)) {
			return
		}
	}
}

// quantile returns the duration below which the share q of all lie, 0 for an
// empty histogram.
func (h *histogram) quantile(q float64) time.Duration {
	total := h.count.Load()
	if total == 0 {
		return 0
	}
	want, seen := uint64(q*float64(total-1))+1, uint64(0)
	for i := range h.buckets {
		if seen += h.buckets[i].Load(); seen >= want {
			return min(time.Duration(middleOf(i)), time.Duration(h.highest.Load()))
		}
	}
	return time.Duration(h.highest.Load())
}

// spread is what is reported of a histogram, in milliseconds.
type spread struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	Max   float64 `json:"max_ms"`
}

func (h *histogram) spread() *spread {
	ms := func(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / float64(time.Millisecond) }
	return &spread{h.count.Load(), ms(h.quantile(0.5)), ms(h.quantile(0.9)), ms(h.quantile(0.99)), ms(time.Duration(h.highest.Load()))}
}
