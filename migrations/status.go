package migrations

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	// ErrBehind: the schema is older than this binary needs. Its text names the
	// command that helps.
	ErrBehind = errors.New("the database's schema is behind")

	// ErrAhead: the schema was migrated by a newer binary than this one.
	ErrAhead = errors.New("the database's schema is newer than this binary")

	// ErrNotMigrated: the database has no log yet.
	ErrNotMigrated = errors.New("the database has no event log yet")
)

// Status is a schema's versions, as found and as this binary wants them. A
// version of 0 means that there is nothing yet.
type Status struct {
	River, RiverWanted int
	Log, LogWanted     int
	Epoch              string // the log's incarnation; empty before the first Up
}

func (s Status) behind() bool { return s.River < s.RiverWanted || s.Log < s.LogWanted }

func (s Status) ahead() bool { return s.River > s.RiverWanted || s.Log > s.LogWanted }

// err is nil for a current schema. Ahead is reported first: migrating, the
// remedy for behind, would not help then.
func (s Status) err() error {
	versions := fmt.Sprintf("River's part has version %d and needs %d, the log has %d and needs %d", s.River, s.RiverWanted, s.Log, s.LogWanted)
	switch {
	case s.ahead():
		return fmt.Errorf("%w: %s; run a newer release of the gateway on this database", ErrAhead, versions)
	case s.behind():
		return fmt.Errorf("%w: %s; run `restante-migrate up` (from the source: `go run ./cmd/migrate up`) with the same DATABASE_URL", ErrBehind, versions)
	default:
		return nil
	}
}

// Database is a connection or a pool.
type Database interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// Check returns nil if the schema is the one this binary was built with, or an
// error that wraps ErrBehind or ErrAhead and says what to do.
func Check(ctx context.Context, db Database) error {
	status, err := Read(ctx, db)
	if err != nil {
		return fmt.Errorf("check schema: %w", err)
	}
	return status.err()
}

// Read returns a database's versions. An empty database is not an error.
func Read(ctx context.Context, db Database) (Status, error) {
	var status Status
	status.RiverWanted, status.LogWanted = Wanted()
	// One snapshot, so that a migration in progress is seen before or after a
	// step, and a table that was there cannot be gone.
	err := pgx.BeginTxFunc(ctx, db, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var river, log, meta bool
		if err := tx.QueryRow(ctx, tablesQuery).Scan(&river, &log, &meta); err != nil {
			return err
		}
		if river {
			if err := tx.QueryRow(ctx, riverVersionQuery).Scan(&status.River); err != nil {
				return err
			}
		}
		if log {
			if err := tx.QueryRow(ctx, logVersionQuery).Scan(&status.Log); err != nil {
				return err
			}
		}
		if meta {
			if err := tx.QueryRow(ctx, "SELECT epoch FROM meta").Scan(&status.Epoch); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Status{}, fmt.Errorf("read schema versions: %w", err)
	}
	return status, nil
}

const tablesQuery = `
SELECT to_regclass('river_migration') IS NOT NULL,
       to_regclass('` + versionTable + `') IS NOT NULL,
       to_regclass('meta') IS NOT NULL`

// The column line came with River's version 5; before, there was one line only.
const riverVersionQuery = `
SELECT coalesce(max(version), 0)::int FROM river_migration AS r
WHERE coalesce(to_jsonb(r)->>'line', 'main') = 'main'`

const logVersionQuery = `SELECT coalesce(max(version_id), 0)::int FROM ` + versionTable + ` WHERE is_applied`

// Wanted returns the versions this binary was built with: River's, and the
// highest number among the embedded files.
func Wanted() (river, log int) {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // the embedded directory is part of the binary
	}
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		version, err := strconv.Atoi(number)
		if err != nil {
			panic(fmt.Errorf("migration %s: the name must begin with a number: %w", entry.Name(), err))
		}
		log = max(log, version)
	}
	return riverVersion, log
}

// NewEpoch gives the log a new incarnation and returns the old and the new one.
// It is for after a restore from a backup: the log has lost its newest entries,
// and its seqs will be given out a second time. Clients that resume from a
// position of the old incarnation start again instead of skipping.
//
// Replicas notice within a heartbeat and start anew on the new epoch.
func NewEpoch(ctx context.Context, pool *pgxpool.Pool) (old, current string, err error) {
	status, err := Read(ctx, pool)
	if err != nil {
		return "", "", fmt.Errorf("new epoch: %w", err)
	}
	if status.Epoch == "" {
		return "", "", fmt.Errorf("new epoch: %w", ErrNotMigrated)
	}
	err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, "SELECT epoch FROM meta FOR UPDATE").Scan(&old); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "UPDATE meta SET epoch = gen_random_uuid()::text RETURNING epoch").Scan(&current)
	})
	if err != nil {
		return "", "", fmt.Errorf("new epoch: %w", err)
	}
	return old, current, nil
}
