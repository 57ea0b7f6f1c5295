package publishers

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Results beside the reasons of a rejection.
const (
	resultOK          = "ok"
	resultStale       = "stale" // accepted from a copy while the database does not answer
	resultUnavailable = "unavailable"
)

type metrics struct{ checks *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer, c *cache) metrics {
	auto := promauto.With(reg)
	m := metrics{checks: auto.NewCounterVec(prometheus.CounterOpts{
		Name: "restante_publisher_checks_total",
		Help: "API keys presented, by result; a result other than ok, stale and unavailable is the reason of the rejection.",
	}, []string{"result"})}
	// Every series exists from the start: a rate over one that appears with its
	// first error misses that error.
	for _, result := range []string{resultOK, resultStale, resultUnavailable} {
		m.checks.WithLabelValues(result)
	}
	for _, reason := range reasons {
		m.checks.WithLabelValues(string(reason))
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "restante_publisher_keys_cached",
		Help: "API keys of which this replica holds a copy.",
	}, func() float64 { known, _ := c.sizes(); return float64(known) })
	return m
}

func (m metrics) count(stale bool, err error) {
	switch reason := ReasonOf(err); {
	case reason != "":
		m.checks.WithLabelValues(string(reason)).Inc()
	case err != nil:
		m.checks.WithLabelValues(resultUnavailable).Inc()
	case stale:
		m.checks.WithLabelValues(resultStale).Inc()
	default:
		m.checks.WithLabelValues(resultOK).Inc()
	}
}
