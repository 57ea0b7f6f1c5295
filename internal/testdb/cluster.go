package testdb

import (
	"context"
	"log/slog"
	"maps"
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
	return clusterIn(t, tempDirOf(t), nil)
}

// ReplicatedCluster is Cluster for a test that makes copies or standbys of it.
func ReplicatedCluster(t testing.TB) *devstack.Postgres {
	t.Helper()
	return clusterIn(t, tempDirOf(t), replicated)
}

// Standby returns a standby that streams from a ReplicatedCluster.
func Standby(t testing.TB, primary *devstack.Postgres) *devstack.Postgres {
	t.Helper()
	return clusterIn(t, Backup(t, primary, "-R"), replicated)
}

// Backup copies a ReplicatedCluster into a directory of the test's, for Replace, and
// returns the directory.
func Backup(t testing.TB, cluster *devstack.Postgres, arguments ...string) string {
	t.Helper()
	dir := tempDirOf(t)
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	if err := cluster.Backup(ctx, dir, arguments...); err != nil {
		t.Fatalf("testdb: %v", err)
	}
	return dir
}

// replicated are the settings of a Postgres that has a standby.
var replicated = map[string]string{"wal_level": "replica", "max_wal_senders": "4", "wal_keep_size": "256MB"}

func tempDirOf(t testing.TB) string {
	t.Helper()
	dir, err := newTempDir()
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	t.Cleanup(func() {
		if err := dir.remove(); err != nil {
			t.Errorf("testdb: %v", err)
		}
	})
	return dir.path
}

// clusterIn starts the PostgreSQL of a directory until the test ends.
func clusterIn(t testing.TB, dir string, settings map[string]string) *devstack.Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	binDir, err := devstack.FindPostgres(context.Background(), true, os.Stderr)
	if err != nil {
		t.Fatalf("testdb: %v", err)
	}
	all := map[string]string{"shared_buffers": "64MB"}
	maps.Copy(all, settings)
	cluster, err := devstack.StartPostgres(ctx, devstack.PostgresConfig{
		Dir:      dir,
		BinDir:   binDir,
		Settings: all,
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
