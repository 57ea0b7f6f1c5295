package events

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
)

const censusTimeout = 2 * time.Second

// takeCensusSQL: what waits for users who are away is as old as it may be; what
// waits for somebody who is connected ought to be under way. It waits since its
// append, or since the user came if that is later. Whether somebody is connected
// is asked of the sessions and not of the lane, so that a wrong lane shows too.
const takeCensusSQL = `
WITH connected AS (
	SELECT x.user_id, min(x.connected_at) AS since FROM sessions x JOIN replicas r ON r.replica_id = x.replica_id
	WHERE r.heartbeat_at > now() - $1::interval GROUP BY x.user_id),
waiting AS (
	SELECT coalesce(max(extract(epoch FROM now() - greatest(e.created_at, c.since))), 0)::float8 AS seconds
	FROM connected c JOIN streams s ON s.user_id = c.user_id
	CROSS JOIN LATERAL (SELECT created_at FROM events e WHERE e.user_id = s.user_id AND e.seq > s.acked ORDER BY e.seq LIMIT 1) e
	WHERE s.head > s.acked)
INSERT INTO census (taken_at, idle, owed, parked, pending_users, pending_messages, pending_seconds)
SELECT now(), count(*) FILTER (WHERE lane = 0), count(*) FILTER (WHERE lane = 1), count(*) FILTER (WHERE lane = 2),
	count(*) FILTER (WHERE head > acked), coalesce(sum(head - acked), 0), greatest((SELECT seconds FROM waiting), 0)
FROM streams
ON CONFLICT (only_row) DO UPDATE SET taken_at = excluded.taken_at, idle = excluded.idle, owed = excluded.owed,
	parked = excluded.parked, pending_users = excluded.pending_users, pending_messages = excluded.pending_messages,
	pending_seconds = excluded.pending_seconds`

// TakeCensus counts the streams by lane, and what is pending, for every replica's
// metrics. It reads all streams (0.2 s for a million) and the oldest pending event
// of each connected user, so one replica does it, now and then.
func (l *Log) TakeCensus(ctx context.Context) error {
	_, err := l.cfg.Upkeep.Exec(ctx, takeCensusSQL, l.cfg.Lease)
	return unavailable("take census", err)
}

// censusCollector shows the last census, and River's queue of delivery jobs,
// which is short enough to be counted at each scrape.
type censusCollector struct {
	log                                                *Log
	lanes, users, messages, oldest, age, jobs, overdue *prometheus.Desc
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
		oldest:   desc("restante_pending_oldest_seconds", "How long the message has been waiting that waits the longest for a user who is connected, at the last census: since its append, or since the user connected. The same on every replica."),
		age:      desc("restante_census_age_seconds", "Time since the last census."),
		jobs:     desc("restante_unfinished_delivery_jobs", "Delivery jobs in River's table that are not finished, by state. The same on every replica.", "state"),
		overdue:  desc("restante_delivery_overdue_seconds", "How long the delivery job that is due the longest has not been run. The same on every replica."),
	}
}

// Describe implements prometheus.Collector.
func (c *censusCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.lanes, c.users, c.messages, c.oldest, c.age, c.jobs, c.overdue} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *censusCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), censusTimeout)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(`SELECT idle, owed, parked, pending_users, pending_messages, pending_seconds, extract(epoch FROM now() - taken_at)::float8 FROM census`)
	b.Queue(`SELECT state::text, count(*), extract(epoch FROM now() - min(scheduled_at))::float8
		FROM river_job WHERE kind = '` + JobKind + `' AND finalized_at IS NULL GROUP BY state`)
	results := c.log.cfg.Upkeep.SendBatch(ctx, b)
	defer results.Close()

	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	var idle, owed, parked, users, messages int64
	var oldest, age float64
	switch err := results.QueryRow().Scan(&idle, &owed, &parked, &users, &messages, &oldest, &age); {
	case err == nil:
		gauge(c.lanes, float64(idle), "idle")
		gauge(c.lanes, float64(owed), "owed")
		gauge(c.lanes, float64(parked), "parked")
		gauge(c.users, float64(users))
		gauge(c.messages, float64(messages))
		gauge(c.oldest, oldest)
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
	var due, overdue float64
	if _, err := pgx.ForEachRow(rows, []any{&state, &count, &due}, func() error {
		jobs[state] = count
		if state != "running" {
			overdue = max(overdue, due)
		}
		return nil
	}); err != nil {
		return
	}
	for state, count := range jobs {
		gauge(c.jobs, float64(count), state)
	}
	gauge(c.overdue, overdue)
}
