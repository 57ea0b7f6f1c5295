package e2e

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"restante/internal/testdb"
)

// TestNoDatabaseAtStart: a clear error and exit code, within the time that a
// supervisor waits between two attempts.
func TestNoDatabaseAtStart(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{
		"nothing listens":    "postgres://postgres@127.0.0.1:1/restante",
		"no socket":          "postgres://postgres@/restante?host=" + filepath.Join(t.TempDir(), "none"),
		"no such host":       "postgres://postgres@database.invalid:5432/restante",
		"no URL at all":      "restante",
		"password not shown": "postgres://postgres:Sesame-open-1@127.0.0.1:1/restante",
	} {
		t.Run(name, func(t *testing.T) {
			w := prepareWorld(t, url)
			s := w.launch()
			s.ends(1)
			if said := s.stderr.String(); !strings.Contains(said, "database") || strings.Contains(said, "Sesame") || strings.Contains(said, "goroutine") {
				t.Errorf("the error is: %s", said)
			}
		})
	}
}

// TestWaitForDatabase: with -wait-for-db a replica waits for Postgres, then for
// its schema, and says so. Meanwhile it lives, is not ready, and takes no requests.
func TestWaitForDatabase(t *testing.T) {
	parallel(t)
	cluster := testdb.Cluster(t)
	if err := cluster.CreateDatabase(t.Context(), "restante"); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := prepareWorld(t, cluster.URL("restante"))
	taken, err := net.Listen("tcp", "127.0.0.1:0") // it would end, if it wanted it now
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := w.launch("-wait-for-db", "-listen", taken.Addr().String())
	s.admin = "http://" + s.says(s.stderr, `"msg":"starting","admin":"([^"]+)"`)[1]
	s.says(s.stderr, `"msg":"waiting for the database"`)
	for path, want := range map[string]int{"/livez": http.StatusOK, "/readyz": http.StatusServiceUnavailable, "/metrics": http.StatusServiceUnavailable} {
		if status := within(t, 10*time.Second, s, path); status != want {
			t.Errorf("%s of a replica that waits: %d, want %d", path, status, want)
		}
	}
	taken.Close()

	if err := cluster.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.says(s.stderr, `"msg":"waiting for the database".*migrate up`)

	do(t, []string{"DATABASE_URL=" + w.databaseURL}, "migrate", "up")
	s.serving()
}

// TestSchemaBehind: a replica refuses a schema that is behind and names the
// command that helps; that command helps.
func TestSchemaBehind(t *testing.T) {
	parallel(t)
	w := prepareWorld(t, testdb.Empty(t).URL)
	s := w.launch()
	s.ends(1)
	if said := s.stderr.String(); !strings.Contains(said, "restante-migrate up") || !strings.Contains(said, "go run ./cmd/migrate up") {
		t.Errorf("the error names no command: %s", said)
	}
	do(t, []string{"DATABASE_URL=" + w.databaseURL}, "migrate", "up")
	w.server()
}

// TestFiveStartAtOnce: five replicas and five migrations begin together on a
// database without a schema.
func TestFiveStartAtOnce(t *testing.T) {
	parallel(t)
	w := prepareWorld(t, testdb.Empty(t).URL)
	var replicas []*server
	var migrations []*process
	for range 5 {
		replicas = append(replicas, w.launch("-wait-for-db"))
		migrations = append(migrations, start(t, []string{"DATABASE_URL=" + w.databaseURL}, "migrate", "up"))
	}
	did := 0
	for _, m := range migrations {
		m.ends(0)
		if strings.HasPrefix(m.stdout.String(), "migrated: ") {
			did++
		}
	}
	if did == 0 {
		t.Error("no migration says that it did something")
	}
	w.createKey()
	for i, s := range replicas {
		s.serving()
		w.connect(s, fmt.Sprint("user-", i))
	}
	p := &publisher{w: w, number: 1}
	for i, s := range replicas {
		for j := range replicas {
			p.posts(s, fmt.Sprint("user-", (i+j)%5), 1)
		}
	}
	w.verdict()
}
