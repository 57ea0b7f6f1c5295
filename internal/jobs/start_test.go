package jobs_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/jobs"
	"restante/internal/testdb"
)

// River gives up when its first connections fail; the replica must not.
func TestStartWaitsForPostgres(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	cfg, err := database.RelaxedConfig(db.URL, 6)
	if err != nil {
		t.Fatal(err)
	}
	var dials, away atomic.Int64
	away.Store(1)
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		dials.Add(1)
		if away.Load() > 0 {
			return nil, errors.New("no way there")
		}
		return dial(ctx, network, address)
	}
	pool, err := database.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	insert(t, db, "al", `{}`)
	c := &core{settle: func(context.Context, string) (events.Debt, error) { return events.Debt{Lane: events.Idle}, nil }}
	work(t, db, c, func(cfg *jobs.Config) { cfg.Pool = pool })
	until(t, "tried", func() bool { return dials.Load() > 0 })
	away.Store(0)
	until(t, "worked", func() bool { return c.settles() == 1 })
}
