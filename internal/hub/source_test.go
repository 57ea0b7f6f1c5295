package hub_test

import (
	"maps"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/events"
	"restante/internal/hub"
)

// wakes is restante_wakes_total by source.
func wakes(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	bySource := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "restante_wakes_total" {
			for _, m := range f.GetMetric() {
				bySource[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return bySource
}

// Who looks for lost wakes must be able to tell them from what is ordinary: a
// connect with a backlog, and the look after the listener has connected.
func TestWakesAreCountedByTheirSource(t *testing.T) {
	registry := prometheus.NewRegistry()
	inBubble(t, func(cfg *hub.Config) { cfg.Metrics, cfg.SweepEvery = registry, time.Minute }, func(t *testing.T, b *bubble) {
		b.log.append("al", 3)
		b.connect("al", confirming)
		b.connect("bea", confirming) // nothing is pending for her
		b.Wake(hub.FromNotify, []events.Head{{UserID: "bea", Seq: b.log.append("bea", 1)}, {UserID: "nobody", Seq: 1}})
		b.Wake(hub.FromJob, []events.Head{{UserID: "al"}, {UserID: "bea"}})
		b.appendAndWake("al", 1)
		pass(time.Second)
		b.log.append("al", 1)
		b.Resync(t.Context())
		pass(time.Second)
		b.log.append("bea", 1)
		pass(time.Minute)
		want := map[string]float64{"connect": 1, "notify": 1, "job": 2, "local": 1, "resync": 1, "sweep": 1}
		if got := wakes(t, registry); !maps.Equal(got, want) {
			t.Errorf("counted %v, want %v", got, want)
		}
	})
}
