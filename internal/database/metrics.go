package database

import (
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// poolCollector shows a pool's own statistics.
type poolCollector struct {
	pool                                     *pgxpool.Pool
	conns, max, waits, waitSeconds, canceled *prometheus.Desc
}

// NewPoolCollector makes a collector of a pool's statistics, labelled with its name.
func NewPoolCollector(name string, pool *pgxpool.Pool) prometheus.Collector {
	desc := func(metric, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("restante_db_pool_"+metric, help, labels, prometheus.Labels{"pool": name})
	}
	return &poolCollector{
		pool:        pool,
		conns:       desc("connections", "Connections of the pool, by state: idle, in_use, connecting.", "state"),
		max:         desc("connections_max", "Most connections the pool may have."),
		waits:       desc("waits_total", "Times a connection was waited for, because none was idle."),
		waitSeconds: desc("wait_seconds_total", "Time spent waiting for connections."),
		canceled:    desc("canceled_waits_total", "Waits that were given up."),
	}
}

// Describe implements prometheus.Collector.
func (c *poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.conns, c.max, c.waits, c.waitSeconds, c.canceled} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *poolCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.pool.Stat()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	send(c.conns, prometheus.GaugeValue, float64(s.IdleConns()), "idle")
	send(c.conns, prometheus.GaugeValue, float64(s.AcquiredConns()), "in_use")
	send(c.conns, prometheus.GaugeValue, float64(s.ConstructingConns()), "connecting")
	send(c.max, prometheus.GaugeValue, float64(s.MaxConns()))
	send(c.waits, prometheus.CounterValue, float64(s.EmptyAcquireCount()))
	send(c.waitSeconds, prometheus.CounterValue, s.EmptyAcquireWaitTime().Seconds())
	send(c.canceled, prometheus.CounterValue, float64(s.CanceledAcquireCount()))
}
