package devstack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// ErrAttached is returned when asked to stop a Postgres that another process
// runs.
var ErrAttached = errors.New("this PostgreSQL belongs to another process")

// startTimeout bounds a start when the caller's context does not: replaying the
// log after a crash may take a while, an hour would be a fault.
const startTimeout = 2 * time.Minute

// newsEvery is how often a start that takes long says what it waits for.
const newsEvery = 5 * time.Second

// cannotConnectNow is what PostgreSQL answers while it starts or stops.
const cannotConnectNow = "57P03"

// PostgresConfig says where a private PostgreSQL lives and how it runs.
type PostgresConfig struct {
	// Dir holds everything: the data directory, PostgreSQL's log, and the
	// socket unless its path would be too long for one. Created if missing.
	Dir string

	// BinDir holds initdb and postgres; empty means FindPostgres without
	// installing. When Dir was made by another major version, installed
	// binaries of that version are preferred to these.
	BinDir string

	// Unsafe gives up durability against a crash for speed: right for tests
	// that do not crash it, wrong for everything else.
	Unsafe bool

	// Settings are added to or replace the server's settings.
	Settings map[string]string

	Out    io.Writer    // progress for people; nil for none
	Logger *slog.Logger // nil for none
}

// Postgres is a private PostgreSQL. Its methods may be called from several
// goroutines, but starting and stopping it at once is for the caller to avoid.
type Postgres struct {
	config  PostgresConfig
	paths   postgresPaths
	user    *osUser
	process *process // nil: attached, or stopped
}

// StartPostgres starts the PostgreSQL of config.Dir, creating it first if
// needed, or attaches to it if another process runs it. It returns when
// connections are accepted.
func StartPostgres(ctx context.Context, config PostgresConfig) (*Postgres, error) {
	if config.Out == nil {
		config.Out = io.Discard
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.BinDir == "" {
		dir, err := FindPostgres(ctx, false, config.Out)
		if err != nil {
			return nil, err
		}
		config.BinDir = dir
	}
	as, err := serverUser()
	if err != nil {
		return nil, err
	}
	paths, err := choosePaths(config.Dir)
	if err != nil {
		return nil, err
	}
	p := &Postgres{config: config, paths: paths, user: as}
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// Start brings a stopped Postgres back. Starting a running one does nothing.
func (p *Postgres) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %s", startTimeout))
	defer cancel()

	if p.process != nil && p.process.alive() {
		return nil
	}
	p.process = nil
	if err := p.paths.prepare(p.user); err != nil {
		return fmt.Errorf("prepare directory for PostgreSQL: %w", err)
	}
	unlock, err := lockFile(ctx, p.paths.lock)
	if err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	defer unlock()

	attached, err := p.attach(ctx)
	if err != nil {
		return fmt.Errorf("attach to PostgreSQL: %w", err)
	}
	if attached {
		p.config.Logger.InfoContext(ctx, "attached to a running PostgreSQL", "dir", p.paths.dir)
		return nil
	}
	if err := p.create(ctx); err != nil {
		return fmt.Errorf("create PostgreSQL data directory: %w", err)
	}
	if err := p.launch(ctx); err != nil {
		return fmt.Errorf("start PostgreSQL: %w", err)
	}
	p.config.Logger.InfoContext(ctx, "PostgreSQL started", "dir", p.paths.dir, "pid", p.process.pid())
	return nil
}

// attach reports whether another process's PostgreSQL serves this directory.
// One that is just starting or stopping is waited for.
func (p *Postgres) attach(ctx context.Context) (bool, error) {
	ticker := time.NewTicker(readyPoll)
	defer ticker.Stop()
	for {
		err := p.ping(ctx)
		if err == nil {
			return true, nil
		}
		working, known := workingIn(p.paths.data)
		var refused *pgconn.PgError
		answered := errors.As(err, &refused)
		if answered && refused.Code != cannotConnectNow {
			return true, nil // no room for one more, say: it runs all the same
		}
		if !answered && !working {
			if known {
				return false, p.paths.removeLeftovers()
			}
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("%w: it runs but does not accept connections: %w", context.Cause(ctx), err)
		case <-ticker.C:
		}
	}
}

// launch starts the server and waits until it accepts connections.
func (p *Postgres) launch(ctx context.Context) error {
	binDir, err := p.binariesForData(ctx)
	if err != nil {
		return err
	}
	log, err := p.paths.openLog()
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor
	cmd := serverCommand(binDir, p.paths, p.settings(), log)
	runAs(cmd, p.user)
	process, err := startProcess(cmd)
	if err != nil {
		return err
	}
	ticker, news := time.NewTicker(readyPoll), time.NewTicker(newsEvery)
	defer ticker.Stop()
	defer news.Stop()
	for {
		pingErr := p.ping(ctx)
		if pingErr == nil {
			p.process = process
			return nil
		}
		select {
		case <-news.C:
			fmt.Fprintf(p.config.Out, "waiting for PostgreSQL to accept connections (last answer: %v)\n", pingErr)
		default:
		}
		select {
		case <-process.done:
			return fmt.Errorf("it ended at once (%w); the end of %s says:\n%s", process.result(), p.paths.log, p.paths.logTail())
		case <-ctx.Done():
			cause := context.Cause(ctx)
			endCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killWait)
			defer cancel()
			endErr := process.end(endCtx, stopImmediate)
			return errors.Join(fmt.Errorf("%w (last answer: %w); the end of %s says:\n%s", cause, pingErr, p.paths.log, p.paths.logTail()), endErr)
		case <-ticker.C:
		}
	}
}

// ping connects and leaves again.
func (p *Postgres) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// URL returns the connection URL of a database of this Postgres, for pgx and
// libpq alike. It does not create the database.
func (p *Postgres) URL(database string) string {
	// libpq and pgx take a "+" in a query as it is.
	socket := strings.ReplaceAll(url.QueryEscape(p.paths.socket), "+", "%20")
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Host: "", Path: "/" + database, RawQuery: "host=" + socket + "&port=" + socketPort}
	return u.String()
}

// CreateDatabase makes sure that a database exists.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, p.URL("postgres"))
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists); err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	if exists {
		return nil
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	var refused *pgconn.PgError
	if errors.As(err, &refused) && (refused.Code == "42P04" || refused.Code == "23505") {
		return nil // another process was faster
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// Attached reports whether another process runs this PostgreSQL.
func (p *Postgres) Attached() bool { return p.process == nil }

// Done is closed when the server of this process has ended, whoever ended it.
// It is nil, and so blocks for ever, while attached.
func (p *Postgres) Done() <-chan struct{} {
	if p.process == nil {
		return nil
	}
	return p.process.done
}

// Stop ends the server in order: open transactions are rolled back, and the
// next start needs no recovery. If ctx ends first the server is killed, and the
// error says so. An attached Postgres is left alone, without an error.
func (p *Postgres) Stop(ctx context.Context) error {
	if p.process == nil {
		return nil
	}
	if err := p.process.end(ctx, stopFast); err != nil {
		return errors.Join(fmt.Errorf("stop PostgreSQL: %w", err), p.Kill())
	}
	return nil
}

// Kill ends the server as a crash would: nothing is flushed or rolled back, and
// the next start replays the log. Returns ErrAttached if it is not ours.
func (p *Postgres) Kill() error {
	if p.process == nil {
		return ErrAttached
	}
	ctx, cancel := context.WithTimeout(context.Background(), killWait)
	defer cancel()
	if err := p.process.end(ctx, stopImmediate); err != nil {
		return fmt.Errorf("kill PostgreSQL: %w", err)
	}
	return nil
}

// Restart is Stop, then Start.
func (p *Postgres) Restart(ctx context.Context) error {
	if p.process == nil {
		return ErrAttached
	}
	if err := p.Stop(ctx); err != nil {
		return err
	}
	return p.Start(ctx)
}

// LogFile is where PostgreSQL's own log goes.
func (p *Postgres) LogFile() string { return p.paths.log }

// DataDirectory is where a PostgreSQL of a state directory keeps its data.
func DataDirectory(dir string) string { return filepath.Join(dir, "data") }

// exists reports whether path is there at all.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
