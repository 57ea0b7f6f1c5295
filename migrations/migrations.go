// Package migrations brings a database's schema to what this binary needs:
// River's tables first, then the gateway's own, from the numbered SQL files
// beside this one.
//
// Promise: after Up returns nil the schema is exactly the one this binary was
// built with, however many replicas called Up at the same moment. Up on a
// schema that is complete changes nothing.
//
// Authority: two version numbers in the database, River's and ours. A schema is
// behind (ErrBehind: migrate), current, or ahead (ErrAhead: a newer binary
// migrated it, and this one does not know what the new columns mean, so it
// refuses to touch it).
//
// Failure: each migration runs in a transaction of its own and records its
// version with it, so a crash leaves the schema at some version, never between
// two; the next Up goes on from there. One session-level advisory lock is held
// around both parts, because River's migrator has none and fails when two run
// at once; Postgres releases it when the session ends, however it ends.
package migrations

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

const (
	// riverVersion is pinned: a newer River library must not change tables
	// behind our back, our own migrations build on River's.
	riverVersion = 8

	// versionTable is where goose keeps our version.
	versionTable = "restante_schema"

	// lockKey is the advisory lock's: any number, the same in every release.
	lockKey int64 = 0x7265_7374_616e_7465

	// lockPoll is how often a taken lock is tried again.
	lockPoll = 100 * time.Millisecond
)

// Up migrates the database to this binary's schema. It waits, until ctx ends,
// while another process migrates. Returns ErrAhead, having changed nothing, on
// a schema newer than this binary.
//
// The lock belongs to a session, so databaseURL must not go through a pooler in
// transaction mode.
func Up(ctx context.Context, databaseURL string, log *slog.Logger) (err error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	config.MaxConns = 3
	// A limit that suits the gateway's statements does not suit an index on a
	// big table.
	config.ConnConfig.RuntimeParams["statement_timeout"] = "0"
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "restante-migrate"
	}

	unlock, err := lock(ctx, config.ConnConfig, log)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer unlock()

	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer pool.Close()

	status, err := Read(ctx, pool)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if status.ahead() {
		return fmt.Errorf("migrate: %w", status.err())
	}
	if status.River < status.RiverWanted {
		if err := upRiver(ctx, pool, log); err != nil {
			return fmt.Errorf("migrate River's schema: %w", err)
		}
	}
	if status.Log < status.LogWanted {
		if err := upLog(ctx, pool, log); err != nil {
			return fmt.Errorf("migrate the log's schema: %w", err)
		}
	}
	return Check(ctx, pool)
}

// lock takes the advisory lock on a connection of its own and returns the
// function that gives both back.
//
// It asks again and again instead of waiting inside pg_advisory_lock: a waiting
// statement holds a snapshot, and CREATE INDEX CONCURRENTLY in a migration
// would wait for that snapshot while its holder waits for the migration.
func lock(ctx context.Context, config *pgx.ConnConfig, log *slog.Logger) (unlock func(), err error) {
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return nil, err
	}
	unlock = func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		conn.Close(ctx) // ends the session, and the lock with it
	}
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for waited := false; ; waited = true {
		var locked bool
		if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", lockKey).Scan(&locked); err != nil {
			unlock()
			return nil, fmt.Errorf("take the migration lock: %w", err)
		}
		if locked {
			return unlock, nil
		}
		if !waited {
			log.InfoContext(ctx, "another process migrates this database, waiting for it")
		}
		select {
		case <-ctx.Done():
			unlock()
			return nil, fmt.Errorf("wait for another migration: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

func upRiver(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) error {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: quiet(log)})
	if err != nil {
		return err
	}
	result, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, &rivermigrate.MigrateOpts{TargetVersion: riverVersion})
	if err != nil {
		return err
	}
	for _, version := range result.Versions {
		log.InfoContext(ctx, "migrated", "schema", "river", "version", version.Version, "name", version.Name, "elapsed_seconds", version.Duration.Seconds())
	}
	return nil
}

func upLog(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) (err error) {
	db := stdlib.OpenDBFromPool(pool)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(versionTable), goose.WithDisableGlobalRegistry(true), goose.WithSlog(quiet(log)))
	if err != nil {
		return err
	}
	results, err := provider.Up(ctx)
	for _, result := range results {
		log.InfoContext(ctx, "migrated", "schema", "log", "version", result.Source.Version, "name", result.Source.Path, "elapsed_seconds", result.Duration.Seconds())
	}
	return err
}

// quiet keeps the libraries' own account of the same steps out of the log;
// their warnings and errors stay.
func quiet(log *slog.Logger) *slog.Logger {
	return slog.New(warnings{log.Handler()})
}

type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && w.Handler.Enabled(ctx, level)
}

func (w warnings) WithAttrs(attrs []slog.Attr) slog.Handler {
	return warnings{w.Handler.WithAttrs(attrs)}
}

func (w warnings) WithGroup(name string) slog.Handler { return warnings{w.Handler.WithGroup(name)} }
