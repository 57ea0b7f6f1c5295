package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"restante/internal/devstack"
	"restante/internal/testdb"
)

// TestOlderBackupRestored restores a backup that lacks the newest messages, in each of
// the ways in which people do that, without a command and with replicas alive and
// clients connected. What is answered 202 afterwards reaches its user's client, and
// clients are told that the log has another history.
func TestOlderBackupRestored(t *testing.T) {
	for name, backup := range map[string]func(*testing.T, *devstack.Postgres) (restore func()){
		// Into the running database, under the replicas' open connections.
		"dump": func(t *testing.T, cluster *devstack.Postgres) func() {
			file := filepath.Join(os.TempDir(), fmt.Sprintf("restante-dump-%d", os.Getpid()))
			t.Cleanup(func() { os.Remove(file) })
			tool(t, cluster, "pg_dump", "-Fc", "-f", file, "restante")
			return func() {
				tool(t, cluster, "pg_restore", "--clean", "--if-exists", "--single-transaction", "-d", "restante", file)
			}
		},
		// A snapshot of the data directory, which recovers as after a crash: timeline,
		// system identifier, tables and meta.epoch are those of before.
		"snapshot": func(t *testing.T, cluster *devstack.Postgres) func() {
			dir := testdb.Backup(t, cluster)
			return func() { replace(t, cluster, dir) }
		},
		// Recovery to a point in time, which begins a new timeline.
		"point in time": func(t *testing.T, cluster *devstack.Postgres) func() {
			dir := testdb.Backup(t, cluster)
			data := devstack.DataDirectory(dir)
			settings, err := os.OpenFile(filepath.Join(data, "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = settings.WriteString("restore_command = 'false'\nrecovery_target = 'immediate'\nrecovery_target_action = 'promote'\n")
			if err != nil || settings.Close() != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(data, "recovery.signal"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			return func() { replace(t, cluster, dir) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			parallel(t)
			cluster := testdb.ReplicatedCluster(t)
			w := newWorld(t, testdb.Migrated(t, cluster))
			h := newHistories(w, []*server{w.server(), w.server(), w.server()}, 12)
			// A quiet moment, so that it is known what the backup holds.
			p := &publisher{w: w, number: 99}
			for _, user := range h.users {
				p.posts(h.servers[0], user, 2)
			}
			restore := backup(t, cluster)
			for user, at := range streams(t, cluster) {
				h.begins(user, at[0], at[1])
			}
			stop := h.run(false)
			eventually(t, "messages flow", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.accepted) > 300 })
			h.phase.Store(between)
			restore()
			close(h.began)
			h.phase.Store(after)
			eventually(t, "messages flow again", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.after > 300 })
			stopReading := stop()
			if lost := h.verdict(w.databaseURL); lost == 0 {
				t.Error("the backup had everything")
			}
			h.isTold(func(int) bool { return true })
			stopReading()
		})
	}
}

func tool(t *testing.T, cluster *devstack.Postgres, name string, arguments ...string) {
	t.Helper()
	if err := cluster.Tool(t.Context(), name, arguments...); err != nil {
		t.Fatal(err)
	}
}

// replace puts a copy in the place of a cluster's data.
func replace(t *testing.T, cluster *devstack.Postgres, dir string) {
	t.Helper()
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Replace(dir); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}
