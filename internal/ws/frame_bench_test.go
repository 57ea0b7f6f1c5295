package ws

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
)

// BenchmarkFrames is a batch as it goes out, in both modes.
func BenchmarkFrames(b *testing.B) {
	at := time.Date(2026, 1, 2, 15, 4, 5, 678e6, time.UTC)
	for _, n := range []int{1, 100} {
		batch := hub.Batch{Page: events.Page{Through: int64(n)}}
		for i := range n {
			batch.Events = append(batch.Events, events.Event{
				Seq: int64(i + 1), Payload: []byte(`"` + strings.Repeat("m", 254) + `"`), CreatedAt: at, ExpiresAt: at.Add(time.Hour),
			})
		}
		for _, mode := range []struct {
			name   string
			append func([]byte, hub.Batch) []byte
		}{{Protocol, appendV1}, {"plain", appendPlain}} {
			b.Run(fmt.Sprintf("%s/%d", mode.name, n), func(b *testing.B) {
				var buffer []byte
				b.ReportAllocs()
				for b.Loop() {
					buffer = mode.append(buffer[:0], batch)
				}
				b.SetBytes(int64(len(buffer)))
			})
		}
	}
}
