package jobs_test

import (
	"context"
	"testing"

	"restante/internal/events"
	"restante/internal/testdb"
)

// River's own index serves priority before time: with many delivery jobs that are
// not due yet, each fetch would look at all of them.
func TestJobsThatAreNotDueAreNotLookedAt(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	for _, sql := range []string{
		`INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at)
			SELECT jsonb_build_object('user_id', 'later' || i), 'deliver', 'deliver', 30000, now() + interval '1 hour'
			FROM generate_series(1, 20000) AS i`,
		`ANALYZE river_job`,
	} {
		if _, err := db.Pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	c := &core{settle: func(context.Context, string) (events.Debt, error) { return events.Debt{}, nil }}
	stop := work(t, db, c)
	id := insert(t, db, "due", `{}`)
	until(t, "the one that is due is completed", func() bool { return look(t, db, id).State == "completed" })
	stop()
	until(t, "the fetches have gone by time", func() bool {
		var scans int
		if err := db.Pool.QueryRow(t.Context(), `SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'river_job_due'`).Scan(&scans); err != nil {
			t.Fatal(err)
		}
		return scans > 0
	})
}
