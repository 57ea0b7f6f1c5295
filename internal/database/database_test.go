package database_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/database"
	"restante/internal/testdb"
)

func pool(t *testing.T, config func(string, int) (*pgxpool.Config, error), url string) *pgxpool.Pool {
	t.Helper()
	cfg, err := config(url, 3)
	if err != nil {
		t.Fatal(err)
	}
	p, err := database.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// What Postgres itself says of each kind of connection.
func TestSettingsOfEachKind(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	signals, err := database.SignalConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	signal, err := database.Connector(signals)(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = signal.Close(context.WithoutCancel(t.Context())) }()
	type queryer interface {
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	}
	common := map[string]string{"lock_timeout": "2s", "statement_timeout": "15s", "idle_in_transaction_session_timeout": "1s", "TimeZone": "UTC"}
	for _, kind := range []struct {
		name string
		db   queryer
		want map[string]string
	}{
		{"restante", pool(t, database.DurableConfig, url), map[string]string{"enable_seqscan": "off", "enable_bitmapscan": "off", "plan_cache_mode": "auto", "lock_timeout": "50ms"}},
		{"restante relaxed", pool(t, database.RelaxedConfig, url), map[string]string{"synchronous_commit": "off", "plan_cache_mode": "auto", "enable_seqscan": "off", "enable_bitmapscan": "off"}},
		{"restante jobs", pool(t, database.JobsConfig, url), map[string]string{"synchronous_commit": "off", "plan_cache_mode": "force_custom_plan", "enable_seqscan": "on", "idle_in_transaction_session_timeout": "5s"}},
		{"restante signals", signal, map[string]string{"synchronous_commit": "off", "plan_cache_mode": "auto"}},
	} {
		kind.want["application_name"] = kind.name
		for setting, value := range common {
			if _, own := kind.want[setting]; !own {
				kind.want[setting] = value
			}
		}
		for setting, want := range kind.want {
			var got string
			if err := kind.db.QueryRow(t.Context(), `SELECT current_setting($1)`, setting).Scan(&got); err != nil || got != want {
				t.Errorf("%s: %s is %q, want %q (%v)", kind.name, setting, got, want, err)
			}
		}
	}
	cfg, err := database.DurableConfig(url, 3)
	if err != nil {
		t.Fatal(err)
	}
	// On is Postgres's default, and an operator may ask for more than that.
	if value, set := cfg.ConnConfig.RuntimeParams["synchronous_commit"]; set {
		t.Errorf("durable connections have synchronous_commit=%s", value)
	}
	if cfg.MaxConns != 3 {
		t.Errorf("%d connections", cfg.MaxConns)
	}
}

// An operator's own name in the URL stays; safety settings are ours.
func TestURLMayNameTheApplication(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	sep := "?"
	if strings.Contains(url, "?") {
		sep = "&"
	}
	p := pool(t, database.RelaxedConfig, url+sep+"application_name=mine&lock_timeout=0")
	var name, timeout string
	if err := p.QueryRow(t.Context(), `SELECT current_setting('application_name'), current_setting('lock_timeout')`).Scan(&name, &timeout); err != nil {
		t.Fatal(err)
	}
	if name != "mine" || timeout != "2s" {
		t.Errorf("application_name %q, lock_timeout %q", name, timeout)
	}
}

// The counter-example: somebody keeps a row locked, and everybody who needs it
// waits for ever.
func TestLockWaitsEnd(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	p := pool(t, database.DurableConfig, url)
	if _, err := p.Exec(t.Context(), `INSERT INTO streams (user_id) VALUES ('al')`); err != nil {
		t.Fatal(err)
	}
	holder, err := p.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Rollback(context.WithoutCancel(t.Context())) }()
	const lock = `SELECT 1 FROM streams WHERE user_id = 'al' FOR UPDATE`
	if _, err := holder.Exec(t.Context(), lock); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = p.Exec(t.Context(), lock)
	var pg *pgconn.PgError
	if took := time.Since(start); !errors.As(err, &pg) || pg.Code != "55P03" || took > 6*time.Second {
		t.Errorf("%v after %v", err, took)
	}
}

func TestOpeningDoesNotWaitForPostgres(t *testing.T) {
	t.Parallel()
	const nowhere = "postgres://127.0.0.1:1/nothing"
	start := time.Now()
	p := pool(t, database.DurableConfig, nowhere)
	if took := time.Since(start); took > time.Second {
		t.Errorf("opened after %v", took)
	}
	if err := p.Ping(t.Context()); err == nil {
		t.Error("there is nobody to answer")
	}
	signals, err := database.SignalConfig(nowhere)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := database.Connector(signals)(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "connect: ") {
		t.Errorf("connect: %v", err)
	}
}

func TestUnreadableURLIsRefused(t *testing.T) {
	t.Parallel()
	const bad = "postgres://user:secret@host:notaport/db"
	_, durable := database.DurableConfig(bad, 1)
	_, relaxed := database.RelaxedConfig(bad, 1)
	_, jobs := database.JobsConfig(bad, 1)
	_, signal := database.SignalConfig(bad)
	for _, err := range []error{durable, relaxed, jobs, signal} {
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("error: %v", err)
		}
	}
}
