package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/buildinfo"
	"restante/migrations"
)

// connectTimeout bounds one attempt: a host that swallows packets must not look
// like a long migration.
const connectTimeout = 10 * time.Second

func up(ctx context.Context, o options) error {
	// First a connection of the short kind, for a clear error.
	pool, err := connect(ctx, o.databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	before, err := migrations.Read(ctx, pool)
	if err != nil {
		return err
	}
	if err := migrations.Up(ctx, o.databaseURL, o.log); err != nil {
		return err
	}
	after, err := migrations.Read(ctx, pool)
	if err != nil {
		return err
	}
	if before == after {
		fmt.Fprintln(o.stdout, "nothing to do: the schema is up to date")
		return nil
	}
	fmt.Fprintf(o.stdout, "migrated: river %d to %d, log %d to %d\n", before.River, after.River, before.Log, after.Log)
	return nil
}

func status(ctx context.Context, o options) error {
	pool, err := connect(ctx, o.databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	s, err := migrations.Read(ctx, pool)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(o.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SCHEMA\tVERSION\tNEEDED\t")
	fmt.Fprintf(table, "river\t%d\t%d\t%s\n", s.River, s.RiverWanted, judge(s.River, s.RiverWanted))
	fmt.Fprintf(table, "log\t%d\t%d\t%s\n", s.Log, s.LogWanted, judge(s.Log, s.LogWanted))
	if err := table.Flush(); err != nil {
		return err
	}
	if s.Epoch != "" {
		fmt.Fprintf(o.stdout, "\nepoch %s\n", s.Epoch)
	}
	if s.River != s.RiverWanted || s.Log != s.LogWanted {
		return errBehind
	}
	return nil
}

func judge(have, needed int) string {
	switch {
	case have < needed:
		return "behind: run restante-migrate up"
	case have > needed:
		return "newer than this release"
	default:
		return "ok"
	}
}

func version(_ context.Context, o options) error {
	river, log := migrations.Wanted()
	fmt.Fprintf(o.stdout, "restante-migrate %s\nriver schema %d\nlog schema %d\n", buildinfo.Read(), river, log)
	return nil
}

func newEpoch(ctx context.Context, o options) error {
	if !o.yes {
		return fmt.Errorf("%w: new-epoch makes every client start again from what is pending; it is for after a restore of data alone, or of a snapshot of the data directory. Other restores, and promotions, are noticed by themselves. If that is what you want, say: restante-migrate new-epoch -yes", errUsage)
	}
	pool, err := connect(ctx, o.databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	old, current, err := migrations.NewEpoch(ctx, pool)
	if errors.Is(err, migrations.ErrNotMigrated) {
		return fmt.Errorf("%w: there is nothing to renew. Run restante-migrate up", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(o.stdout, "epoch %s replaced by %s\nreplicas that run start anew within seconds\n", old, current)
	return nil
}

// connect opens the database and makes sure that it answers.
func connect(ctx context.Context, databaseURL string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("the database URL cannot be read (want postgres://user:password@host:5432/database): %w", err)
	}
	config.MaxConns = 2
	config.ConnConfig.ConnectTimeout = connectTimeout
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, unreachable(config, err)
	}
	return pool, nil
}

// unreachable says where we knocked and, where we know one, a remedy. It names
// no password: pgx leaves it out of its errors.
func unreachable(config *pgxpool.Config, err error) error {
	c := config.ConnConfig
	where := fmt.Sprintf("database %q as user %q on %s port %d", c.Database, c.User, c.Host, c.Port)
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		switch refused.Code {
		case "3D000":
			return fmt.Errorf("no %s: create it first (createdb %s): %w", where, c.Database, err)
		case "28P01", "28000":
			return fmt.Errorf("the server refuses %s: check user and password: %w", where, err)
		case "57P03":
			return fmt.Errorf("the server of %s is starting or stopping, try again: %w", where, err)
		}
	}
	return fmt.Errorf("cannot reach %s: does PostgreSQL run there? %w", where, err)
}
