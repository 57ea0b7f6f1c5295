package accept

import "github.com/prometheus/client_golang/prometheus"

var (
	openDesc = prometheus.NewDesc("restante_connections",
		"Connections of clients and publishers that this replica holds, WebSockets among them.", nil, nil)
	limitDesc = prometheus.NewDesc("restante_connections_limit",
		"Connections that this replica may hold: -max-connections, or what its limit of open files leaves.", nil, nil)
	refusedDesc = prometheus.NewDesc("restante_connections_refused_total",
		"Connections that ended because the replica held as many as it may: silent (closed for another before a request came), full (answered 503), dropped (not answered).",
		[]string{"reason"}, nil)
)

// Describe implements prometheus.Collector.
func (l *Limit) Describe(ch chan<- *prometheus.Desc) {
	ch <- openDesc
	ch <- limitDesc
	ch <- refusedDesc
}

// Collect implements prometheus.Collector.
func (l *Limit) Collect(ch chan<- prometheus.Metric) {
	l.mu.Lock()
	open := len(l.open)
	l.mu.Unlock()
	ch <- prometheus.MustNewConstMetric(openDesc, prometheus.GaugeValue, float64(open))
	ch <- prometheus.MustNewConstMetric(limitDesc, prometheus.GaugeValue, float64(l.most))
	ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(l.closed.Load()), "silent")
	ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(l.full.Load()), "full")
	ch <- prometheus.MustNewConstMetric(refusedDesc, prometheus.CounterValue, float64(l.dropped.Load()), "dropped")
}
