package events_test

import (
	"testing"
	"time"

	"restante/internal/events"
)

func TestAppendTime(t *testing.T) {
	east := time.FixedZone("", 2*3600)
	for want, at := range map[string]time.Time{
		"2026-01-02T03:04:05.006Z": time.Date(2026, 1, 2, 3, 4, 5, 6_999_999, time.UTC),
		"2026-01-01T23:04:05.789Z": time.Date(2026, 1, 2, 1, 4, 5, 789_000_000, east),
		"2026-12-31T23:59:59.000Z": time.Date(2026, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		if got := string(events.AppendTime([]byte("x"), at)); got != "x"+want {
			t.Errorf("%v: %s, want %s", at, got, want)
		}
	}
}

func BenchmarkAppendTime(b *testing.B) {
	at, buffer := time.Date(2026, 1, 2, 3, 4, 5, 678_000_000, time.UTC), make([]byte, 0, 64)
	for b.Loop() {
		buffer = events.AppendTime(buffer[:0], at)
	}
}
