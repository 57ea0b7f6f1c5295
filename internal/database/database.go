// Package database opens the gateway's connections to Postgres, each kind with
// the settings that its statements were measured with:
//
//   - Durable: a commit is on disk when it is answered, whatever the server's, the
//     database's or the role's synchronous_commit says. Appends and reads.
//   - Relaxed: synchronous_commit=off. Acks, lanes, presence, trim: losing the last
//     of them in a crash of Postgres only delivers again. Postgres's log is a
//     prefix, so a later change never survives an earlier one.
//   - Jobs: the same for River and the upkeep, whose statements are planned anew each
//     time.
//
// Every connection has timeouts for statements, for locks and for idling inside
// a transaction, so that nothing of ours holds up Postgres for long.
//
// Of several hosts the one that takes writes is used. A replica reaches Postgres
// through a Link, which checks each new connection and can end all at once.
//
// Failure: a pool connects when it is first used and again when Postgres is
// back; opening one does not wait for Postgres.
package database

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	connectTimeout = 5 * time.Second
	applicationKey = "application_name"
)

// common are the settings of every connection.
var common = map[string]string{
	"timezone": "UTC",
	// What a statement finds after it has waited for a lock is newer than the lock.
	"default_transaction_isolation": "read committed",
	"lock_timeout":                  "2s",
	"statement_timeout":             "15s",
	// What enable_seqscan=off keeps a plan from costs 10,000,000,000 on paper, so that
	// Postgres would compile a look at a table of one row, for 1.5 s.
	"jit": "off",
	// A replica that stands still in the middle of a transaction must not keep the
	// locks that it holds. Nothing of ours computes between two statements.
	"idle_in_transaction_session_timeout": "1s",
}

// impatient: a commit holds the streams of many users, and must not hold them while
// it waits for one that somebody keeps locked: it gives up, and leaves that one out.
// Other commits have a stream for a few milliseconds.
var impatient = map[string]string{
	"lock_timeout": "50ms",
}

// byKey: nearly every statement of ours goes by keys, but a plan that was made while
// the tables were empty may scan them, and would be kept while they grow. Nor must a
// table of 10,000 rows be scanned for the 300 that a batch of acks updates (6 ms
// instead of 2), as Postgres would. What has to read a whole table still does.
var byKey = map[string]string{
	"enable_seqscan":    "off",
	"enable_bitmapscan": "off",
}

var relaxed = map[string]string{
	"synchronous_commit": "off",
}

// planned: River's fetch keeps a bad plan from when its table was empty, and a join
// of all owed lanes with all jobs one from when they were few.
var planned = map[string]string{
	"plan_cache_mode": "force_custom_plan",
	// River's own transactions hold no stream, and a leader that was paused for a moment
	// goes on.
	"idle_in_transaction_session_timeout": "5s",
}

// DurableConfig is that of the pool for appends and reads.
func DurableConfig(url string, maxConns int) (*pgxpool.Config, error) {
	cfg, err := poolConfig(url, maxConns, "restante", byKey, impatient)
	if err != nil {
		return nil, err
	}
	cfg.AfterConnect = ensureDurable
	return cfg, nil
}

// RelaxedConfig is that of the pool for everything that may be done again.
func RelaxedConfig(url string, maxConns int) (*pgxpool.Config, error) {
	return poolConfig(url, maxConns, "restante relaxed", relaxed, byKey)
}

// JobsConfig is that of the pool for River and for upkeep.
func JobsConfig(url string, maxConns int) (*pgxpool.Config, error) {
	return poolConfig(url, maxConns, "restante jobs", relaxed, planned)
}

func poolConfig(url string, maxConns int, name string, settings ...map[string]string) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read database URL: %w", err)
	}
	cfg.MaxConns = int32(maxConns)
	prepare(cfg.ConnConfig, name, settings...)
	return cfg, nil
}

// SignalConfig is that of a relaxed connection outside of the pools, for what
// must not wait for a free one: heartbeat, LISTEN, NOTIFY.
func SignalConfig(url string) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read database URL: %w", err)
	}
	prepare(cfg, "restante signals", relaxed, byKey)
	return cfg, nil
}

// Open opens a pool. It does not wait for Postgres.
func Open(ctx context.Context, cfg *pgxpool.Config) (*pgxpool.Pool, error) {
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	return pool, nil
}

// Connector returns a function that opens connections.
func Connector(cfg *pgx.ConnConfig) func(context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		conn, err := pgx.ConnectConfig(ctx, cfg.Copy())
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		return conn, nil
	}
}

func prepare(cfg *pgx.ConnConfig, name string, settings ...map[string]string) {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	writable(&cfg.Config)
	maps.Copy(cfg.RuntimeParams, common)
	for _, s := range settings {
		maps.Copy(cfg.RuntimeParams, s)
	}
	if cfg.RuntimeParams[applicationKey] == "" {
		cfg.RuntimeParams[applicationKey] = name
	}
}
