package ws_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"restante/internal/coretest"
)

// gauge reads a metric of the replica.
func (s *server) gauge(t *testing.T, name string) float64 {
	t.Helper()
	families, err := s.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// standStill connects clients of some users that will never read.
func (s *server) standStill(t *testing.T, users, each int) {
	t.Helper()
	for i := range users * each {
		s.dialSlow(t, fmt.Sprint("user", i%users), "", 1<<20)
	}
}

// What is held for a client that has stopped reading is the rest of one message,
// whatever waits for it in the log. RESTANTE_SLOW=full takes 1,800 clients.
func TestClientsThatDoNotReadCostNoPages(t *testing.T) {
	users, each := 3, 100
	if os.Getenv("RESTANTE_SLOW") == "full" {
		users, each = 18, 100
	}
	s := serveOn(t, coretest.Options{DeliverDelay: time.Minute}, kernelBuffers)
	for u := range users {
		for range 5 { // 1.25 MB, in pages of 256 KiB
			var page []string
			for range 64 {
				page = append(page, `"`+strings.Repeat("x", 4000)+`"`)
			}
			s.post(t, fmt.Sprint("user", u), page...)
		}
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s.standStill(t, users, each)
	until(t, "all connections are full", func() bool { return s.gauge(t, "restante_sessions_blocked") == float64(users*each) })
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := int(after.HeapAlloc) - int(before.HeapAlloc)
	t.Logf("%d bytes a client, %.0f kept; %s", grown/(users*each), s.gauge(t, "restante_unwritten_bytes"), residentMemory(t))
	if most := users * each * (40 << 10); grown > most {
		t.Errorf("the heap grew by %d bytes for %d clients", grown, users*each)
	}
}

func residentMemory(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	var lines []string
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
			lines = append(lines, strings.Join(strings.Fields(line), " "))
		}
	}
	return strings.Join(lines, ", ")
}
