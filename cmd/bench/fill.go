package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// Rows that a run needs by the million are not posted but written by SQL. They
// are what the gateway itself would have left after the same posts: a stream
// whose lane is parked with its events pending, or owed with its job.

// fillOffline gives n users a pending message each: parked, they wait for their
// user to connect. Payloads have size bytes.
func fillOffline(ctx context.Context, db *pgxpool.Pool, n, size int) error {
	return fill(ctx, db,
		statement{`INSERT INTO streams (user_id, head, armed, lane)
			SELECT 'offline-' || i, 1, 1, 2 FROM generate_series(1, $1::int) AS i`, []any{n}},
		statement{`INSERT INTO events (user_id, seq, payload, publisher, expires_at)
			SELECT 'offline-' || i, 1, convert_to('"' || repeat('.', $2::int - 2) || '"', 'UTF8'), 'bench', now() + interval '1 day'
			FROM generate_series(1, $1::int) AS i`, []any{n, size}})
}

// fillJobs gives the first n offline users a delivery job that is due in an hour.
func fillJobs(ctx context.Context, db *pgxpool.Pool, n int) error {
	return fill(ctx, db,
		statement{`UPDATE streams SET lane = 1 WHERE user_id IN (SELECT 'offline-' || i FROM generate_series(1, $1::int) AS i)`, []any{n}},
		statement{`INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at)
			SELECT jsonb_build_object('user_id', 'offline-' || i), 'deliver', 'deliver', 30000, now() + interval '1 hour'
			FROM generate_series(1, $1::int) AS i`, []any{n}})
}

// fillEvents writes n delivered events of 1000 users, as traffic of the last
// hours has left them: acknowledged and not yet past the retention.
func fillEvents(ctx context.Context, db *pgxpool.Pool, n, size int) error {
	const users = 1000
	return fill(ctx, db,
		statement{`INSERT INTO streams (user_id, head, acked, armed)
			SELECT 'past-' || i, $2::int / $1::int, $2::int / $1::int, 1 FROM generate_series(1, $1::int) AS i`, []any{users, n}},
		statement{`INSERT INTO events (user_id, seq, payload, publisher, expires_at)
			SELECT 'past-' || i, s, convert_to('"' || repeat('.', $3::int - 2) || '"', 'UTF8'), 'bench', now() + interval '1 day'
			FROM generate_series(1, $1::int) AS i, generate_series(1, $2::int / $1::int) AS s`, []any{users, n, size}})
}

type statement struct {
	sql  string
	args []any
}

// fill runs statements in one transaction and tidies up after them.
func fill(ctx context.Context, db *pgxpool.Pool, statements ...statement) error {
	err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		for _, s := range statements {
			if _, err := tx.Exec(ctx, s.sql, s.args...); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fill the database: %w", err)
	}
	return tidyUp(ctx, db)
}

// fetchCost is how long River's own fetch takes while nothing is due, the median
// of several, under the setting that the gateway runs it with.
func fetchCost(ctx context.Context, db *pgxpool.Pool) (time.Duration, error) {
	const times = 21
	took := make([]time.Duration, 0, times)
	for range times {
		err := pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SET LOCAL plan_cache_mode = force_custom_plan`); err != nil {
				return err
			}
			started := time.Now()
			_, err := riverpgxv5.New(nil).UnwrapExecutor(tx).JobGetAvailable(ctx, &riverdriver.JobGetAvailableParams{
				ClientID: "bench", MaxAttemptedBy: 10, MaxToLock: 50, Queue: "deliver",
			})
			took = append(took, time.Since(started))
			return err
		})
		if err != nil {
			return 0, fmt.Errorf("fetch like River: %w", err)
		}
	}
	return medianOf(took), nil
}
