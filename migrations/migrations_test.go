package migrations_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"restante/internal/testdb"
	"restante/migrations"
)

func TestMain(m *testing.M) { testdb.Main(m) }

var silent = slog.New(slog.DiscardHandler)

func TestUpByFiveReplicasAtOnce(t *testing.T) {
	t.Parallel()
	db := testdb.Empty(t)
	err := migrations.Check(t.Context(), db.Pool)
	if !errors.Is(err, migrations.ErrBehind) || !strings.Contains(err.Error(), "go run ./cmd/migrate up") {
		t.Errorf("Check of an empty database: %v, want ErrBehind and the command that helps", err)
	}
	status, err := migrations.Read(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if status.River != 0 || status.Log != 0 || status.Epoch != "" || status.RiverWanted != 8 || status.LogWanted < 1 {
		t.Errorf("status of an empty database: %+v", status)
	}

	errs := make([]error, 5)
	var replicas sync.WaitGroup
	for i := range errs {
		replicas.Go(func() { errs[i] = migrations.Up(t.Context(), db.URL, silent) })
	}
	replicas.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}

	if err := migrations.Check(t.Context(), db.Pool); err != nil {
		t.Error(err)
	}
	status, err = migrations.Read(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if status.River != status.RiverWanted || status.Log != status.LogWanted || status.Epoch == "" {
		t.Errorf("status after Up: %+v", status)
	}
	for _, table := range []string{"streams", "events", "sessions", "replicas", "tokens", "publishers", "meta", "river_job"} {
		var there bool
		if err := db.Pool.QueryRow(t.Context(), "SELECT to_regclass($1) IS NOT NULL", table).Scan(&there); err != nil || !there {
			t.Errorf("table %s is missing (%v)", table, err)
		}
	}
}

func TestUpTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	before, err := migrations.Read(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool.Exec(t.Context(), "INSERT INTO streams (user_id) VALUES ('ann')"); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), db.URL, silent); err != nil {
		t.Fatal(err)
	}
	after, err := migrations.Read(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if before != after {
		t.Errorf("before %+v, after %+v", before, after)
	}
	var streams int
	if err := db.Pool.QueryRow(t.Context(), "SELECT count(*) FROM streams").Scan(&streams); err != nil || streams != 1 {
		t.Errorf("%d streams, want 1 (%v)", streams, err)
	}
}

// dropOurs drops everything but River's tables.
const dropOurs = `DROP INDEX river_job_due;
DO $$ BEGIN EXECUTE (SELECT 'DROP TABLE ' || string_agg(quote_ident(tablename), ', ') FROM pg_tables
	WHERE schemaname = current_schema AND tablename NOT LIKE 'river%'); END $$`

func TestUpGoesOnFromAnyVersion(t *testing.T) {
	t.Parallel()
	// As if the process had died between River's part and ours, or within
	// River's: its first versions know no lines.
	for _, statement := range []string{
		dropOurs,
		dropOurs + `; DELETE FROM river_migration WHERE version = 8`,
	} {
		db := testdb.New(t)
		if _, err := db.Pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
		if err := migrations.Check(t.Context(), db.Pool); !errors.Is(err, migrations.ErrBehind) {
			t.Errorf("Check: %v, want ErrBehind", err)
		}
		if err := migrations.Up(t.Context(), db.URL, silent); err != nil {
			t.Error(err)
		}
	}
}

func TestReadKnowsRiverWithoutLines(t *testing.T) {
	t.Parallel()
	db := testdb.Empty(t)
	if _, err := db.Pool.Exec(t.Context(), "CREATE TABLE river_migration (id bigserial PRIMARY KEY, version bigint); INSERT INTO river_migration (version) VALUES (1), (4)"); err != nil {
		t.Fatal(err)
	}
	status, err := migrations.Read(t.Context(), db.Pool)
	if err != nil || status.River != 4 {
		t.Errorf("river version %d, want 4 (%v)", status.River, err)
	}
}

func TestSchemaFromTheFutureIsRefused(t *testing.T) {
	t.Parallel()
	for _, statement := range []string{
		"INSERT INTO restante_schema (version_id, is_applied) VALUES (999, true)",
		"INSERT INTO river_migration (line, version) VALUES ('main', 999)",
		// Behind in one part and ahead in the other: migrating would not help.
		"INSERT INTO restante_schema (version_id, is_applied) VALUES (999, true); DELETE FROM river_migration WHERE version = 8",
	} {
		db := testdb.New(t)
		if _, err := db.Pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
		if err := migrations.Check(t.Context(), db.Pool); !errors.Is(err, migrations.ErrAhead) {
			t.Errorf("Check after %q: %v, want ErrAhead", statement, err)
		}
		before, _ := migrations.Read(t.Context(), db.Pool)
		if err := migrations.Up(t.Context(), db.URL, silent); !errors.Is(err, migrations.ErrAhead) {
			t.Errorf("Up after %q: %v, want ErrAhead", statement, err)
		}
		if after, err := migrations.Read(t.Context(), db.Pool); err != nil || after != before {
			t.Errorf("Up changed %+v to %+v (%v)", before, after, err)
		}
	}
}

func TestUpWaitsForAnotherAndGivesUp(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	conn, err := pgx.Connect(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	// The number is part of the contract between releases: a new one that used
	// another would not wait for an old one.
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(x'72657374616e7465'::bigint)"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := migrations.Up(ctx, db.URL, silent); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Up under a taken lock: %v, want it to wait until its deadline", err)
	}

	done := make(chan error, 1)
	go func() { done <- migrations.Up(t.Context(), db.URL, silent) }()
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("Up after the lock's session ended: %v", err)
	}
}

func TestUpDoesNotInheritTimeouts(t *testing.T) {
	t.Parallel()
	db := testdb.Empty(t)
	if _, err := db.Pool.Exec(t.Context(), `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 1', current_database()); END $$`); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), db.URL, silent); err != nil {
		t.Error(err)
	}
}

func TestNewEpoch(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	before, err := migrations.Read(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	old, current, err := migrations.NewEpoch(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	after, err := migrations.Read(t.Context(), db.Pool)
	if err != nil {
		t.Fatal(err)
	}
	if old != before.Epoch || current != after.Epoch || old == current {
		t.Errorf("was %q, NewEpoch says %q to %q, is %q", before.Epoch, old, current, after.Epoch)
	}
	if _, _, err := migrations.NewEpoch(t.Context(), testdb.Empty(t).Pool); !errors.Is(err, migrations.ErrNotMigrated) {
		t.Errorf("NewEpoch of an empty database: %v, want ErrNotMigrated", err)
	}
}

func TestUpOfNoDatabase(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := migrations.Up(ctx, "postgres://nobody@/none?host=/nonexistent", silent); err == nil {
		t.Error("no error without a server")
	}
	if err := migrations.Up(ctx, "postgres://%zz", silent); err == nil {
		t.Error("no error for a URL that is none")
	}
}
