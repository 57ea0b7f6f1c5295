package events

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

const censusTimeout = 2 * time.Second

const takeCensusSQL = `
INSERT INTO census (taken_at, idle, owed, parked, pending_users, pending_messages)
SELECT now(), count(*) FILTER (WHERE lane = 0), count(*) FILTER (WHERE lane = 1), count(*) FILTER (WHERE lane = 2),
	count(*) FILTER (WHERE head > acked), coalesce(sum(head - acked), 0)
FROM streams
ON CONFLICT (only_row) DO UPDATE SET taken_at = excluded.taken_at, idle = excluded.idle, owed = excluded.owed,
	parked = excluded.parked, pending_users = excluded.pending_users, pending_messages = excluded.pending_messages`

// TakeCensus counts the streams by lane, and what is pending, for every replica's
// metrics. It reads all streams (0.2 s for a million), so one replica does it, now
// and then.
func (l *Log) TakeCensus(ctx context.Context) error {
	_, err := l.cfg.Relaxed.Exec(ctx, takeCensusSQL)
	return unavailable("take census", err)
}

// censusCollector shows the last census, and River's queue of delivery jobs,
// which is short enough to be counted at each scrape.
type censusCollector struct {
	log                               *Log
	lanes, users, messages, age, jobs *prometheus.Desc
}

// CensusCollector returns a collector of what only the database knows. While it
// cannot be reached the metrics are absent.
func (l *Log) CensusCollector() prometheus.Collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &censusCollector{
		log:      l,
		lanes:    desc("restante_lanes", "Streams by the state of their lane, at the last census. The same on every replica.", "state"),
		users:    desc("restante_pending_users", "Users with messages that nobody has confirmed, at the last census. The same on every replica."),
		messages: desc("restante_pending_messages", "Messages that nobody has confirmed, at the last census. The same on every replica."),
		age:      desc("restante_census_age_seconds", "Time since the last census."),
		jobs:     desc("restante_unfinished_delivery_jobs", "Delivery jobs in River's table that are not finished, by state. The same on every replica.", "state"),
	}
}

// Describe implements prometheus.Collector.
func (c *censusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.lanes, c.users, c.messages, c.age, c.jobs} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *censusCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), censusTimeout)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(`SELECT idle, owed, parked, pending_users, pending_messages, extract(epoch FROM now() - taken_at)::float8 FROM census`)
	b.Queue(`SELECT state::text, count(*) FROM river_job WHERE kind = '` + JobKind + `' AND finalized_at IS NULL GROUP BY state`)
	results := c.log.cfg.Relaxed.SendBatch(ctx, b)
	defer results.Close()

	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	var idle, owed, parked, users, messages int64
	var age float64
	switch err := results.QueryRow().Scan(&idle, &owed, &parked, &users, &messages, &age); {
	case err == nil:
		gauge(c.lanes, float64(idle), "idle")
		gauge(c.lanes, float64(owed), "owed")
		gauge(c.lanes, float64(parked), "parked")
		gauge(c.users, float64(users))
		gauge(c.messages, float64(messages))
		gauge(c.age, age)
	case !errors.Is(err, pgx.ErrNoRows): // no census yet is no failure
		return
	}
	rows, err := results.Query()
	if err != nil {
		return
	}
	// None in a state is a zero, not an absence: that is for when the database
	// cannot be asked.
	jobs := map[string]int64{"available": 0, "running": 0, "scheduled": 0, "retryable": 0}
	var state string
	var count int64
	if _, err := pgx.ForEachRow(rows, []any{&state, &count}, func() error {
		jobs[state] = count
		return nil
	}); err != nil {
		return
	}
	for state, count := range jobs {
		gauge(c.jobs, float64(count), state)
	}
}
