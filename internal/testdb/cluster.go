package testdb

import (
	"context"
	"log/slog"
	"os"
	"testing"

	"restante/internal/devstack"
	"restante/migrations"
)

// Cluster returns a PostgreSQL of this test's own, as durable as in production,
// for tests that stop, kill and restart it. It is stopped and removed when the
// test ends. It has no database of ours yet: see Migrated.
func Cluster(t testing.TB) *devstack.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	binDir, err := devstack.FindPostgres(context.Background(), true, os.Stderr)
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	dir, err := newTempDir()
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() {
		if err := dir.remove(); err != nil {
			t.Errorf("testdb: %v", err)
		}
	})
	cluster, err := devstack.StartPostgres(ctx, devstack.PostgresConfig{
		Dir:      dir.path,
		BinDir:   binDir,
		Settings: map[string]string{"shared_buffers": "64MB"},
	})
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
		defer cancel()
		if err := cluster.Stop(ctx); err != nil {
			t.Errorf("testdb: %v", err)
		}
	})
	return cluster
}

// Migrated makes sure that a cluster has the database restante with the
// gateway's schema, and returns its URL.
func Migrated(t testing.TB, cluster *devstack.Postgres) (databaseURL string) {
	t.Helper()
	const name = "restante"
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	if err := cluster.CreateDatabase(ctx, name); err != nil {
		t.Fatalf("testdb: %v", err)
	}
	databaseURL = cluster.URL(name)
	if err := migrations.Up(ctx, databaseURL, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatalf("testdb: %v", err)
	}
	return databaseURL
}
