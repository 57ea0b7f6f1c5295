package tokens

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Results beside the reasons of a rejection.
const (
	resultOK          = "ok"
	resultUnavailable = "unavailable"
	resultError       = "error"
)

type metrics struct {
	issued, redeemed *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, keys *Keyring) metrics {
	auto := promauto.With(reg)
	m := metrics{
		issued: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "restante_tokens_issued_total",
			Help: "Single-use tokens asked for, by result.",
		}, []string{"result"}),
		redeemed: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "restante_tokens_redeemed_total",
			Help: "Attempts to use a token up, by result; a result other than ok and unavailable is the reason of the rejection.",
		}, []string{"result"}),
	}
	// Every series exists from the start: a rate over one that appears with its
	// first error misses that error.
	for _, result := range []string{resultOK, resultUnavailable, resultError} {
		m.issued.WithLabelValues(result)
	}
	for _, result := range []string{resultOK, resultUnavailable} {
		m.redeemed.WithLabelValues(result)
	}
	for _, reason := range reasons {
		m.redeemed.WithLabelValues(string(reason))
	}
	auto.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "restante_tokens_keyring_keys",
		Help: "Keys in force; the first one issues, all of them open.",
	}, func() float64 { return float64(len(keys.current.Load().byID)) })
	reload := func(result string, count func() int64) {
		auto.NewCounterFunc(prometheus.CounterOpts{
			Name:        "restante_tokens_keyring_reloads_total",
			Help:        "Changes of the keyring's file taken over (ok), and looks at a file that cannot be used (error).",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(count()) })
	}
	reload("ok", keys.reloaded.Load)
	reload("error", keys.failed.Load)
	return m
}

func (m metrics) countIssued(err error) {
	switch {
	case err == nil:
		m.issued.WithLabelValues(resultOK).Inc()
	case errors.Is(err, ErrUnavailable):
		m.issued.WithLabelValues(resultUnavailable).Inc()
	default:
		m.issued.WithLabelValues(resultError).Inc()
	}
}

func (m metrics) countRedeemed(err error) {
	switch reason := ReasonOf(err); {
	case err == nil:
		m.redeemed.WithLabelValues(resultOK).Inc()
	case reason != "":
		m.redeemed.WithLabelValues(string(reason)).Inc()
	default:
		m.redeemed.WithLabelValues(resultUnavailable).Inc()
	}
}
