package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// walBytes is how much write-ahead log Postgres has written since it was made.
func walBytes(ctx context.Context, db *pgxpool.Pool) (n int64, err error) {
	err = db.QueryRow(ctx, `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint`).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("read the position of the write-ahead log: %w", err)
	}
	return n, nil
}

// tidyUp does now what Postgres would otherwise do by itself during a
// measurement: vacuum, statistics, a checkpoint (after which every page that is
// changed is written whole once). The second vacuum is for the rows of statistics
// that the first has replaced.
func tidyUp(ctx context.Context, db *pgxpool.Pool) error {
	for _, command := range []string{"VACUUM (ANALYZE)", "VACUUM", "CHECKPOINT"} {
		if _, err := db.Exec(ctx, command); err != nil {
			return fmt.Errorf("%s: %w", command, err)
		}
	}
	return nil
}

// tableSize is what is known of one table.
type tableSize struct {
	Name    string `json:"name"`
	Bytes   int64  `json:"bytes"` // with TOAST, without indexes
	Indexes int64  `json:"index_bytes"`
	Dead    int64  `json:"dead_rows"` // as the statistics have it
}

// tableSizes measures the tables that traffic goes through. Those that are not
// there (the floor has one of its own) are left out.
func tableSizes(ctx context.Context, db *pgxpool.Pool) ([]tableSize, error) {
	rows, err := db.Query(ctx, `
		SELECT relname, pg_table_size(relid), pg_indexes_size(relid), n_dead_tup FROM pg_stat_user_tables
		WHERE schemaname = 'public' AND relname IN ('events', 'streams', 'river_job', 'floor') ORDER BY relname`)
	if err != nil {
		return nil, fmt.Errorf("measure tables: %w", err)
	}
	defer rows.Close()
	var all []tableSize
	for rows.Next() {
		var t tableSize
		if err := rows.Scan(&t.Name, &t.Bytes, &t.Indexes, &t.Dead); err != nil {
			return nil, fmt.Errorf("measure tables: %w", err)
		}
		all = append(all, t)
	}
	return all, rows.Err()
}

// commitMilliseconds is what a commit of one row takes on this disk: the median
// of a hundred, one after the other.
func commitMilliseconds(ctx context.Context, db *pgxpool.Pool) (float64, error) {
	if _, err := db.Exec(ctx, `CREATE TABLE commits (at timestamptz)`); err != nil {
		return 0, fmt.Errorf("make a table to commit to: %w", err)
	}
	var took []float64
	for range 100 {
		started := time.Now()
		if _, err := db.Exec(ctx, `INSERT INTO commits VALUES (now())`); err != nil {
			return 0, fmt.Errorf("commit a row: %w", err)
		}
		took = append(took, time.Since(started).Seconds()*1000)
	}
	return medianOf(took), nil
}
