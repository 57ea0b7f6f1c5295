package testdb_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"restante/internal/testdb"
	"restante/migrations"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func TestNewIsMigratedAndNobodyElses(t *testing.T) {
	t.Parallel()
	for range 8 {
		t.Run("a name with / and Ünicode that is longer than the 63 bytes Postgres keeps of a name", func(t *testing.T) {
			t.Parallel()
			db := testdb.New(t)
			if err := migrations.Check(t.Context(), db.Pool); err != nil {
				t.Fatal(err)
			}
			var others int
			if err := db.Pool.QueryRow(t.Context(), "INSERT INTO streams (user_id) VALUES ('ann') RETURNING (SELECT count(*) FROM streams)").Scan(&others); err != nil {
				t.Fatal(err)
			}
			if others != 0 {
				t.Errorf("a new database has %d streams", others)
			}
		})
	}
}

func TestNewIsDroppedWithItsTest(t *testing.T) {
	t.Parallel()
	var name string
	t.Run("one", func(t *testing.T) {
		db := testdb.New(t)
		if err := db.Pool.QueryRow(t.Context(), "SELECT current_database()").Scan(&name); err != nil {
			t.Fatal(err)
		}
		// A connection that the test forgot does not keep the database.
		conn, err := pgx.Connect(t.Context(), db.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { go conn.Close(context.Background()) })
	})
	var there bool
	if err := testdb.Empty(t).Pool.QueryRow(t.Context(), "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&there); err != nil {
		t.Fatal(err)
	}
	if there {
		t.Errorf("database %s is still there", name)
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	var tables int
	if err := testdb.Empty(t).Pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").Scan(&tables); err != nil {
		t.Fatal(err)
	}
	if tables != 0 {
		t.Errorf("%d tables in an empty database", tables)
	}
}

func TestClusterIsDurable(t *testing.T) {
	t.Parallel()
	cluster := testdb.Cluster(t)
	url := testdb.Migrated(t, cluster)
	write := func(statement string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	write("INSERT INTO streams (user_id) VALUES ('ann')")
	if err := cluster.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := testdb.Migrated(t, cluster); again != url {
		t.Errorf("the URL changed from %s to %s", url, again)
	}
	write("DO $$ BEGIN ASSERT (SELECT count(*) = 1 FROM streams); ASSERT current_setting('fsync') = 'on'; END $$")
}

// The tests again, in a process of their own, on a server that was named.
func TestServerOfTheEnvironment(t *testing.T) {
	t.Parallel()
	cluster := testdb.Cluster(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestNew|TestEmpty", "-test.v")
	cmd.Env = append(os.Environ(), testdb.ServerEnv+"="+cluster.URL("postgres"))
	output, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "--- PASS: TestEmpty") {
		t.Fatalf("%v\n%s", err, output)
	}
	conn, err := pgx.Connect(t.Context(), cluster.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var left int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname LIKE 't\\_%'").Scan(&left); err != nil {
		t.Fatal(err)
	}
	if left != 0 {
		t.Errorf("%d databases were left behind", left)
	}
}
