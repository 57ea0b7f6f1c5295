package events_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/testdb"
)

// dial opens a connection with the settings of the durable pool.
func dial(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	cfg, err := database.DurableConfig(url, 1)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := database.Connector(cfg.ConnConfig)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func openHistory(t *testing.T, conn *pgx.Conn) *events.History {
	t.Helper()
	h, err := events.OpenHistory(t.Context(), conn, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// startHistory runs a Log that remembers what it commits.
func startHistory(t *testing.T, url string) (*replica, *events.History) {
	t.Helper()
	h := openHistory(t, dial(t, url))
	return startLogOn(t, url, func(cfg *events.Config) { cfg.History = h }), h
}

func changed(t *testing.T, h *events.History, conn *pgx.Conn, how string) {
	t.Helper()
	if err := h.Check(t.Context(), conn); !errors.Is(err, events.ErrHistoryChanged) || !strings.Contains(err.Error(), how) {
		t.Fatalf("check: %v; want a changed history, %q", err, how)
	}
	select {
	case <-h.Changed():
	default:
		t.Fatal("nobody is told")
	}
	if err := h.Check(t.Context(), conn); !errors.Is(err, events.ErrHistoryChanged) {
		t.Errorf("a connection after the change: %v", err)
	}
}

// What happens to the log while a replica runs, and what must be made of it.
func TestEpochFollowsTheHistory(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql string
		how string // "" for the same history
	}{
		"nothing":          {`SELECT 1`, ""},
		"maintenance":      {`VACUUM FULL meta; VACUUM FULL streams; VACUUM FULL events; REINDEX TABLE streams`, ""},
		"a new column":     {`ALTER TABLE streams ADD COLUMN more int; ALTER TABLE events ADD COLUMN more int`, ""},
		"trim walks":       {`UPDATE meta SET trim_after = 'x'`, ""},
		"the event went":   {`DELETE FROM events`, ""},
		"new-epoch":        {`UPDATE meta SET epoch = 'other'`, "meta.epoch"},
		"restored meta":    {`CREATE TABLE copy (LIKE meta INCLUDING ALL); INSERT INTO copy SELECT * FROM meta; DROP TABLE meta; ALTER TABLE copy RENAME TO meta`, "tables"},
		"restored streams": {`CREATE TABLE copy (LIKE streams INCLUDING ALL); INSERT INTO copy SELECT * FROM streams; DROP TABLE streams; ALTER TABLE copy RENAME TO streams`, "tables"},
		"restored events":  {`CREATE TABLE copy (LIKE events INCLUDING ALL); INSERT INTO copy SELECT * FROM events; DROP TABLE events; ALTER TABLE copy RENAME TO events`, "tables"},
		"lost the newest":  {`DELETE FROM events WHERE seq = 2; UPDATE streams SET head = 1`, "newest message"},
		"numbered again":   {`UPDATE events SET created_at = created_at + interval '1 microsecond' WHERE seq = 2`, "newest message"},
		"lost the user":    {`TRUNCATE streams, events`, "newest message"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := testdb.New(t).URL
			log, h := startHistory(t, url)
			log.post(t, "al", "1")
			log.post(t, "al", "2")
			held := dial(t, url)
			if err := h.Check(t.Context(), held); err != nil {
				t.Fatal(err)
			}
			for sql := range strings.SplitSeq(test.sql, ";") {
				log.exec(t, sql)
			}
			if test.how != "" {
				changed(t, h, held, test.how)
				if again := openHistory(t, dial(t, url)); again.Epoch() == h.Epoch() {
					t.Error("the epoch is still the same")
				}
				return
			}
			for _, conn := range []*pgx.Conn{held, dial(t, url)} {
				if err := h.Check(t.Context(), conn); err != nil {
					t.Error(err)
				}
			}
			if again := openHistory(t, held); again.Epoch() != h.Epoch() {
				t.Error("another epoch")
			}
		})
	}
}

// The first replica that finds the log gone back renews the epoch, once; one that
// remembers nothing sees that.
func TestOneReplicaRenewsTheEpochForAll(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	log, h := startHistory(t, url)
	other := openHistory(t, dial(t, url))
	log.post(t, "al", "1")
	receiver := openHistory(t, dial(t, url))
	received := startLogOn(t, url, func(cfg *events.Config) { cfg.History = receiver })
	received.Received([]events.Entry{{UserID: "bo", Event: events.Event{Seq: 9, CreatedAt: time.Now()}}})
	log.exec(t, `TRUNCATE streams, events`)

	changed(t, h, dial(t, url), "newest message")
	renewed := openHistory(t, dial(t, url)).Epoch()
	changed(t, other, dial(t, url), "meta.epoch")
	changed(t, receiver, dial(t, url), "meta.epoch")
	if now := openHistory(t, dial(t, url)).Epoch(); now != renewed || now == h.Epoch() {
		t.Errorf("epochs: %s before, %s renewed, %s now", h.Epoch(), renewed, now)
	}
}

// What another replica has sent counts as well: it may be the only one left who
// remembers.
func TestReceivedEventIsRemembered(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	log, h := startHistory(t, url)
	log.Received([]events.Entry{{UserID: "bo", Event: events.Event{Seq: 9, CreatedAt: time.Now()}}})
	changed(t, h, dial(t, url), "newest message")
}

// A role without any privilege but those on the tables.
func TestHistoryNeedsNoPrivilege(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	conn := dial(t, db.URL)
	role := "plain_" + strings.ToLower(strings.ReplaceAll(time.Now().Format("150405.000000000"), ".", "_"))
	for _, sql := range []string{`CREATE ROLE ` + role, `GRANT SELECT ON meta, streams, events TO ` + role, `SET ROLE ` + role} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _, _ = conn.Exec(context.Background(), `RESET ROLE; DROP OWNED BY `+role+`; DROP ROLE `+role) })
	var lines bytes.Buffer
	h, err := events.OpenHistory(t.Context(), conn, slog.New(slog.NewTextHandler(&lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(lines.String(), "timeline") {
		t.Errorf("log: %s", &lines)
	}
	if err := h.Check(t.Context(), conn); err != nil {
		t.Error(err)
	}
}

// A service that keeps these functions to itself.
func TestHistoryWithoutTheFunctions(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	conn := dial(t, url)
	// The functions of pg_catalog are the whole database's: others come first instead.
	for _, sql := range []string{
		`CREATE SCHEMA stub`,
		`CREATE FUNCTION stub.pg_control_system() RETURNS TABLE (system_identifier bigint) LANGUAGE plpgsql AS $$ BEGIN RAISE insufficient_privilege; END $$`,
		`CREATE FUNCTION stub.pg_walfile_name(pg_lsn) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE feature_not_supported; END $$`,
		`SET search_path = stub, pg_catalog, public`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	var lines bytes.Buffer
	h, err := events.OpenHistory(t.Context(), conn, slog.New(slog.NewTextHandler(&lines, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(lines.String(), "system=false timeline=false") {
		t.Errorf("log: %s", &lines)
	}
	if err := h.Check(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `UPDATE meta SET epoch = 'other'`); err != nil {
		t.Fatal(err)
	}
	changed(t, h, conn, "meta.epoch")
}

func TestHistoryOfAReadOnlyServer(t *testing.T) {
	t.Parallel()
	conn := dial(t, testdb.New(t).URL)
	h := openHistory(t, conn)
	if _, err := conn.Exec(t.Context(), `SET default_transaction_read_only = on`); err != nil {
		t.Fatal(err)
	}
	if err := h.Check(t.Context(), conn); !errors.Is(err, events.ErrReadOnly) {
		t.Errorf("check: %v", err)
	}
	if _, err := events.OpenHistory(t.Context(), conn, slog.New(slog.DiscardHandler)); !errors.Is(err, events.ErrReadOnly) {
		t.Errorf("open: %v", err)
	}
	if h.Err() != nil {
		t.Errorf("a read-only server is another history: %v", h.Err())
	}
}

// A restored database that is a copy has the same tables, to the OID.
func TestCopyOfTheDatabaseIsAnotherHistory(t *testing.T) {
	t.Parallel()
	a, b := openHistory(t, dial(t, testdb.New(t).URL)), openHistory(t, dial(t, testdb.New(t).URL))
	if a.Epoch() == b.Epoch() {
		t.Error("two databases of one template have the same epoch")
	}
}
