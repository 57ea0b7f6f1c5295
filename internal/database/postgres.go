package database

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// postgresTimeout bounds what a scrape waits for Postgres.
const postgresTimeout = 2 * time.Second

// postgresSQL is one statement, so one round trip: rows of metric, label, label,
// value. It works on PostgreSQL 14 to 18, takes no lock on our tables (their sizes
// are those of the last vacuum or analyze: pg_relation_size would wait behind an
// ALTER TABLE, just when somebody looks) and needs no privilege. Without
// pg_read_all_stats the sessions of other roles are seen but not what they do:
// they count as hidden, and neither as waiting nor as long.
const postgresSQL = `
WITH activity AS MATERIALIZED (
	SELECT pid, datname = current_database() AS here, wait_event_type, xact_start,
		CASE WHEN state IS NULL THEN 'hidden' WHEN state IN ('active', 'idle') THEN state
			WHEN state LIKE 'idle in transaction%' THEN 'idle_in_transaction' ELSE 'other' END AS state
	FROM pg_stat_activity
	WHERE usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'),
tables AS MATERIALIZED (
	SELECT t.name, c.oid, c.reltoastrelid, s.n_live_tup, s.n_dead_tup,
		coalesce(greatest(s.last_vacuum, s.last_autovacuum), pg_postmaster_start_time()) AS vacuumed
	FROM unnest(ARRAY['streams', 'events', 'river_job', 'sessions', 'tokens']) AS t(name)
	JOIN pg_class c ON c.oid = to_regclass(t.name) JOIN pg_stat_all_tables s ON s.relid = c.oid),
sizes AS (
	SELECT t.name, 'rows' AS part, c.relpages FROM tables t JOIN pg_class c ON c.oid IN (t.oid, t.reltoastrelid)
	UNION ALL
	SELECT t.name, 'indexes', c.relpages FROM tables t
	JOIN pg_index i ON i.indrelid IN (t.oid, t.reltoastrelid) JOIN pg_class c ON c.oid = i.indexrelid)
SELECT 'connections', s.state, '', (SELECT count(*) FROM activity a WHERE a.state = s.state)::float8
FROM unnest(ARRAY['active', 'idle', 'idle_in_transaction', 'other', 'hidden']) AS s(state)
UNION ALL SELECT 'connections_max', '', '', current_setting('max_connections')::float8
UNION ALL SELECT 'lock_waits', '', '', count(*) FROM activity WHERE here AND wait_event_type = 'Lock'
UNION ALL SELECT 'oldest_transaction', '', '', coalesce(greatest(extract(epoch FROM now() - min(xact_start)), 0), 0)
	FROM activity WHERE here AND pid <> pg_backend_pid()
UNION ALL SELECT 'wal', '', '', wal_bytes FROM pg_stat_wal
UNION ALL SELECT x.name, x.label, '', x.value FROM pg_stat_database d,
	LATERAL (VALUES ('transactions', 'commit', d.xact_commit), ('transactions', 'rollback', d.xact_rollback),
		('deadlocks', '', d.deadlocks)) AS x(name, label, value)
	WHERE d.datname = current_database()
UNION ALL SELECT 'database', '', '', pg_database_size(current_database())
UNION ALL SELECT x.name, t.name, '', x.value FROM tables t,
	LATERAL (VALUES ('live_rows', t.n_live_tup::float8), ('dead_rows', t.n_dead_tup),
		('vacuum_age', extract(epoch FROM now() - t.vacuumed))) AS x(name, value)
UNION ALL SELECT 'table', name, part, sum(relpages) * current_setting('block_size')::float8 FROM sizes GROUP BY name, part
UNION ALL SELECT 'notification_queue', '', '', pg_notification_queue_usage()`

// postgresCollector shows what Postgres says of itself.
type postgresCollector struct {
	pool    *pgxpool.Pool
	up      *prometheus.Desc
	metrics map[string]postgresMetric // by the name in postgresSQL
}

type postgresMetric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	labels int // how many of a row's two
}

// NewPostgresCollector makes a collector of the few statistics of Postgres that
// matter here: connections, waits for locks, WAL, transactions, dead rows, sizes.
// They cost one statement of some milliseconds a scrape and are the same on every
// replica. While Postgres does not answer within 2 s, restante_postgres_up is 0
// and the others are absent.
func NewPostgresCollector(pool *pgxpool.Pool) prometheus.Collector {
	c := &postgresCollector{pool: pool, metrics: map[string]postgresMetric{}}
	const prefix = "restante_postgres_"
	c.up = prometheus.NewDesc(prefix+"up", "1 if Postgres has answered this scrape within 2 s.", nil, nil)
	add := func(key string, kind prometheus.ValueType, name, help string, labels ...string) {
		desc := prometheus.NewDesc(prefix+name, help+" The same on every replica.", labels, nil)
		c.metrics[key] = postgresMetric{desc, kind, len(labels)}
	}
	add("connections", prometheus.GaugeValue, "connections", "Connections of clients to the whole server, by state; hidden are those of other roles, if this role may not see what they do.", "state")
	add("connections_max", prometheus.GaugeValue, "connections_max", "Most connections the server takes.")
	add("lock_waits", prometheus.GaugeValue, "lock_waits", "Connections to this database that wait for a lock.")
	add("oldest_transaction", prometheus.GaugeValue, "oldest_transaction_seconds", "Age of the oldest open transaction in this database; vacuum removes nothing younger.")
	add("wal", prometheus.CounterValue, "wal_bytes_total", "Write-ahead log written by the whole server.")
	add("transactions", prometheus.CounterValue, "transactions_total", "Transactions of this database, by result.", "result")
	add("deadlocks", prometheus.CounterValue, "deadlocks_total", "Deadlocks in this database.")
	add("database", prometheus.GaugeValue, "database_bytes", "Size of this database on disk.")
	add("live_rows", prometheus.GaugeValue, "table_live_rows", "Rows of a table, as estimated.", "table")
	add("dead_rows", prometheus.GaugeValue, "table_dead_rows", "Dead rows that vacuum has not yet removed from a table, as estimated.", "table")
	add("vacuum_age", prometheus.GaugeValue, "table_vacuum_age_seconds", "Time since a table was last vacuumed; since the server's start if it never was.", "table")
	add("table", prometheus.GaugeValue, "table_bytes", "Size of a table's rows and indexes when it was last vacuumed or analyzed.", "table", "part")
	add("notification_queue", prometheus.GaugeValue, "notification_queue_fullness", "How full the queue of NOTIFY is, from 0 to 1; full, every commit that notifies fails.")
	return c
}

// Describe implements prometheus.Collector.
func (c *postgresCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.up
	for _, m := range c.metrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (c *postgresCollector) Collect(ch chan<- prometheus.Metric) {
	all, err := c.read()
	up := 0.0
	if err == nil {
		up = 1
	}
	ch <- prometheus.MustNewConstMetric(c.up, prometheus.GaugeValue, up)
	for _, m := range all {
		ch <- m
	}
}

func (c *postgresCollector) read() ([]prometheus.Metric, error) {
	ctx, cancel := context.WithTimeout(context.Background(), postgresTimeout)
	defer cancel()
	rows, err := c.pool.Query(ctx, postgresSQL)
	if err != nil {
		return nil, err
	}
	var all []prometheus.Metric
	var key string
	var value float64
	labels := make([]string, 2)
	_, err = pgx.ForEachRow(rows, []any{&key, &labels[0], &labels[1], &value}, func() error {
		m := c.metrics[key]
		metric, err := prometheus.NewConstMetric(m.desc, m.kind, value, labels[:m.labels]...)
		if err == nil {
			all = append(all, metric)
		}
		return err
	})
	return all, err
}
