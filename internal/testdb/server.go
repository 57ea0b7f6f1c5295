package testdb

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/devstack"
	"restante/migrations"
)

// server is where the process's databases are made.
type server struct {
	cluster *devstack.Postgres // nil: somebody else's server
	dir     *tempDir           // nil likewise
	url     func(database string) string
	admin   *pgxpool.Pool
	prefix  string // of every database's name here; tells processes apart that share a server
	last    atomic.Int64

	// Postgres refuses to copy a template that somebody else is copying or is
	// connected to, so clones are made one at a time.
	cloning sync.Mutex
}

func start(ctx context.Context) (*server, error) {
	s := &server{prefix: "t_" + strings.ToLower(rand.Text()[:8])}
	if err := s.find(ctx); err != nil {
		return nil, err
	}
	if err := s.makeTemplate(ctx); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// find connects to TEST_DATABASE_URL's server or starts a cluster.
func (s *server) find(ctx context.Context) error {
	adminURL := os.Getenv(ServerEnv)
	if adminURL != "" {
		if _, err := withDatabase(adminURL, "any"); err != nil {
			return err
		}
		s.url = func(database string) string {
			databaseURL, _ := withDatabase(adminURL, database) // parsed just above
			return databaseURL
		}
	} else {
		binDir, err := devstack.FindPostgres(ctx, true, os.Stderr)
		if err != nil {
			return err
		}
		if s.dir, err = newTempDir(); err != nil {
			return err
		}
		s.cluster, err = devstack.StartPostgres(ctx, devstack.PostgresConfig{
			Dir:      s.dir.path,
			BinDir:   binDir,
			Unsafe:   true,
			Settings: map[string]string{"max_connections": "300"},
		})
		if err != nil {
			return errors.Join(err, s.dir.remove())
		}
		s.url = s.cluster.URL
		adminURL = s.url("postgres")
	}
	config, err := pgxpool.ParseConfig(adminURL)
	if err != nil {
		return errors.Join(err, s.stop())
	}
	config.MaxConns = 4
	if s.admin, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return errors.Join(err, s.stop())
	}
	return nil
}

func (s *server) template() string { return s.prefix + "_template" }

func (s *server) makeTemplate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, setupTimeout)
	defer cancel()
	if _, err := s.admin.Exec(ctx, "CREATE DATABASE "+quote(s.template())); err != nil {
		return fmt.Errorf("create template database: %w", err)
	}
	if err := migrations.Up(ctx, s.url(s.template()), slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	// Nobody may stay connected to a template, not even by mistake.
	if _, err := s.admin.Exec(ctx, "ALTER DATABASE "+quote(s.template())+" ALLOW_CONNECTIONS false"); err != nil {
		return fmt.Errorf("close template database: %w", err)
	}
	return nil
}

func (s *server) create(ctx context.Context, test string, migrated bool) (name string, err error) {
	name = databaseName(s.prefix, s.last.Add(1), test)
	statement := "CREATE DATABASE " + quote(name)
	if migrated {
		s.cloning.Lock()
		defer s.cloning.Unlock()
		statement += " TEMPLATE " + quote(s.template())
	}
	if _, err := s.admin.Exec(ctx, statement); err != nil {
		return "", fmt.Errorf("create database: %w", err)
	}
	return name, nil
}

func (s *server) drop(ctx context.Context, name string) error {
	if _, err := s.admin.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database: %w", err)
	}
	return nil
}

// stop ends and removes the cluster, or leaves somebody else's server without
// our template.
func (s *server) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	var errs []error
	if s.admin != nil {
		if s.cluster == nil {
			errs = append(errs, s.drop(ctx, s.template()))
		}
		s.admin.Close()
	}
	if s.cluster != nil {
		errs = append(errs, s.cluster.Stop(ctx))
	}
	if s.dir != nil {
		errs = append(errs, s.dir.remove())
	}
	return errors.Join(errs...)
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
