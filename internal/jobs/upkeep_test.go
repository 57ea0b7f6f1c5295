package jobs_test

import (
	"context"
	"testing"

	"restante/internal/events"
	"restante/internal/testdb"
)

func TestPeriodicJobsRun(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	c := &core{settle: func(context.Context, string) (events.Debt, error) { return events.Debt{}, nil }}
	work(t, db, c)
	for _, name := range []string{"trim", "reconcile", "reap", "purge", "census"} {
		until(t, name+" has run", func() bool { return c.called(name) })
	}
	for _, kind := range []string{"trim", "reconcile_lanes", "reap_replicas", "purge_tokens", "census"} {
		until(t, kind+" is completed", func() bool {
			var n int
			if err := db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM river_job WHERE kind = $1 AND state = 'completed'`, kind).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n > 0
		})
	}
}
