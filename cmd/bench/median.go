package main

import (
	"cmp"
	"slices"
)

// medianOf returns the middle value, the lower of two, and zero for none.
func medianOf[T cmp.Ordered](values []T) (median T) {
	if len(values) == 0 {
		return median
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[(len(sorted)-1)/2]
}
