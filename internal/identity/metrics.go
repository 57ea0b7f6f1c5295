package identity

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Kinds of checks, and results beside the reasons of a rejection.
const (
	kindUser      = "user"
	kindPublisher = "publisher"

	resultOK          = "ok"
	resultError       = "error"
	resultUnavailable = "unavailable"
	resultHeldBack    = "held_back"
)

type metrics struct{ checks, fetches *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer) metrics {
	auto := promauto.With(reg)
	m := metrics{
		checks: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "restante_identity_checks_total",
			Help: "OIDC tokens presented, by kind and result; ok; unavailable, the issuer could not be asked; held_back, its keys are not asked for again yet; or the reason of a rejection.",
		}, []string{"kind", "result"}),
		fetches: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "restante_identity_key_fetches_total",
			Help: "Fetches of an issuer's discovery document and keys, by result.",
		}, []string{"result"}),
	}
	// Every series exists from the start: a rate over one that appears with its
	// first error misses that error.
	for _, kind := range []string{kindUser, kindPublisher} {
		m.checks.WithLabelValues(kind, resultOK)
		m.checks.WithLabelValues(kind, resultUnavailable)
		m.checks.WithLabelValues(kind, resultHeldBack)
		for _, reason := range reasons {
			m.checks.WithLabelValues(kind, string(reason))
		}
	}
	m.fetches.WithLabelValues(resultOK)
	m.fetches.WithLabelValues(resultError)
	return m
}

func (m metrics) countCheck(kind string, err error) {
	switch reason := ReasonOf(err); {
	case err == nil:
		m.checks.WithLabelValues(kind, resultOK).Inc()
	case reason != "":
		m.checks.WithLabelValues(kind, string(reason)).Inc()
	case errors.Is(err, errHeldBack):
		m.checks.WithLabelValues(kind, resultHeldBack).Inc()
	default:
		m.checks.WithLabelValues(kind, resultUnavailable).Inc()
	}
}

func (m metrics) countFetch(err error) {
	if err != nil {
		m.fetches.WithLabelValues(resultError).Inc()
		return
	}
	m.fetches.WithLabelValues(resultOK).Inc()
}
