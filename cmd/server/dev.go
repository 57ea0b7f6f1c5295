package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"restante/internal/accept"
	"restante/internal/devstack"
	"restante/internal/identity"
	"restante/internal/sample"
	"restante/migrations"
)

// devClientID is the OIDC client of the page and of msg, and the audience of
// their ID tokens.
const devClientID = "restante"

// dev is everything that -dev starts, in the order in which it is opened.
type dev struct {
	cfg       config
	logger    *slog.Logger
	out       io.Writer
	dir       string
	listeners struct{ public, admin, issuer, sample net.Listener }
	limit     *accept.Limit      // of the public listener's connections
	postgres  *devstack.Postgres // nil with a DATABASE_URL
	replica   *replica
	issuer    *devstack.Issuer
	sample    *sample.App
}

// runDev starts a private PostgreSQL, the gateway, an issuer and the sample
// application in this process, says what to do next, and stops all of it when ctx
// ends. What it keeps survives the next start.
func runDev(ctx context.Context, cfg config, logger *slog.Logger, out io.Writer) (err error) {
	d := &dev{cfg: cfg, logger: logger, out: out}
	if d.limit, err = publicLimit(cfg, openFiles()); err != nil {
		return err
	}
	if d.dir, err = stateDir(cfg.dev.dir); err != nil {
		return err
	}
	unlock, err := devstack.TryLock(filepath.Join(d.dir, "lock"))
	if errors.Is(err, devstack.ErrLocked) {
		return alreadyRunning(d.dir)
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", d.dir, err)
	}
	defer unlock()
	if err := d.listen(ctx); err != nil {
		return err
	}
	defer d.closeListeners()
	if err := d.startPostgres(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stopPostgres()) }()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	return d.run(ctx)
}

// stateDir makes the directory that keeps the development database, keys and
// users. As root it is below /var/lib, for PostgreSQL runs as another user, who
// must be able to get there.
func stateDir(chosen string) (string, error) {
	dir := chosen
	switch {
	case dir != "":
	case os.Geteuid() == 0:
		dir = "/var/lib/restante-dev"
	case os.Getenv("XDG_STATE_HOME") != "":
		dir = filepath.Join(os.Getenv("XDG_STATE_HOME"), "restante")
	default:
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("no place for the development state: %w; choose one with -dev-dir", err)
		}
		dir = filepath.Join(home, ".local", "state", "restante")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make the directory of the development state: %w; choose another with -dev-dir", err)
	}
	return dir, nil
}

func alreadyRunning(dir string) error {
	banner, err := os.ReadFile(filepath.Join(dir, "running"))
	if err != nil {
		return fmt.Errorf("another server -dev is starting or stopping in %s", dir)
	}
	return fmt.Errorf("it is running already (state in %s):\n%s", dir, banner)
}

func (d *dev) listen(ctx context.Context) (err error) {
	l := &d.listeners
	for _, each := range []struct {
		listener *net.Listener
		flag     string
		address  *string
	}{
		{&l.public, "listen", &d.cfg.listen}, {&l.admin, "admin-listen", &d.cfg.adminListen},
		{&l.issuer, "dev-issuer-listen", &d.cfg.dev.issuerListen}, {&l.sample, "dev-sample-listen", &d.cfg.dev.sampleListen},
	} {
		host, _, err := net.SplitHostPort(*each.address)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			d.closeListeners()
			return fmt.Errorf("-%s %s: -dev listens on loopback addresses only, its passwords are well known", each.flag, *each.address)
		}
		if *each.listener, err = listen(ctx, each.flag, *each.address); err != nil {
			d.closeListeners()
			return err
		}
		*each.address = (*each.listener).Addr().String() // port 0 is a port by now
	}
	return nil
}

func (d *dev) closeListeners() {
	l := d.listeners
	for _, each := range []net.Listener{l.public, l.admin, l.issuer, l.sample} {
		if each != nil {
			each.Close()
		}
	}
}

func (d *dev) startPostgres(ctx context.Context) error {
	if d.cfg.databaseURL == "" {
		binDir, err := devstack.FindPostgres(ctx, true, d.out)
		if err != nil {
			return err
		}
		d.postgres, err = devstack.StartPostgres(ctx, devstack.PostgresConfig{
			Dir: filepath.Join(d.dir, "postgres"), BinDir: binDir, Out: d.out, Logger: d.logger,
		})
		if err != nil {
			return err
		}
		if err := d.postgres.CreateDatabase(ctx, "restante"); err != nil {
			return errors.Join(err, d.stopPostgres())
		}
		d.cfg.databaseURL = d.postgres.URL("restante")
	}
	// msg keys finds the database here.
	if err := d.keep("database-url", d.cfg.databaseURL); err != nil {
		return errors.Join(err, d.stopPostgres())
	}
	return nil
}

func (d *dev) stopPostgres() error {
	if d.postgres == nil || d.postgres.Attached() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return d.postgres.Stop(ctx)
}

func (d *dev) url(l net.Listener) string { return "http://" + l.Addr().String() }

// prepare migrates and makes all parts, without running them.
func (d *dev) prepare(ctx context.Context) (err error) {
	if err := migrations.Up(ctx, d.cfg.databaseURL, d.logger); err != nil {
		return err
	}
	page := d.url(d.listeners.sample)
	pages := []string{page, strings.Replace(page, "127.0.0.1", "localhost", 1)}
	d.issuer, err = devstack.NewIssuer(devstack.IssuerConfig{
		URL: d.url(d.listeners.issuer), Dir: filepath.Join(d.dir, "issuer"), ClientID: devClientID,
		AllowedOrigins: pages, Logger: d.logger,
	})
	if err != nil {
		return err
	}
	d.cfg.oidcIssuer, d.cfg.oidcAudience = d.url(d.listeners.issuer), devClientID
	if err := d.cfg.allow(pages...); err != nil {
		return err
	}
	if d.cfg.tokenKeyring, err = d.tokenKeyring(); err != nil {
		return err
	}
	if d.replica, err = newReplica(ctx, d.cfg, nil, d.logger); err != nil {
		return err
	}
	key, err := d.apiKey(ctx)
	if err != nil {
		d.replica.close()
		return err
	}
	d.sample, err = sample.New(sample.Config{
		GatewayURL: d.url(d.listeners.public), APIKey: key,
		Users: identity.New(identity.Config{Issuer: d.cfg.oidcIssuer, Audiences: []string{devClientID}}, prometheus.NewRegistry()),
		Page:  sample.Page{Issuer: d.cfg.oidcIssuer, ClientID: devClientID, GatewayURL: d.url(d.listeners.public)},
		Log:   d.logger.With("part", "sample"),
	})
	if err != nil {
		d.replica.close()
	}
	return err
}

// run runs the parts until ctx ends. The sample application stops before the
// gateway, so that it can still post what is due, and the issuer last.
func (d *dev) run(ctx context.Context) error {
	if err := d.announce(); err != nil {
		d.replica.close()
		return err
	}
	defer os.Remove(filepath.Join(d.dir, "running"))

	g, running := errgroup.WithContext(ctx)
	gatewayCtx, stopGateway := context.WithCancel(context.WithoutCancel(running))
	issuer := &http.Server{Handler: d.issuer.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	app := &http.Server{Handler: d.sample.Handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	admin := newAdmin(d.listeners.admin, d.logger)
	g.Go(admin.serve)
	g.Go(func() error { return serveHTTP(issuer, d.listeners.issuer) })
	g.Go(func() error { return serveHTTP(app, d.listeners.sample) })
	g.Go(func() error {
		defer stopGateway()
		err := d.sample.Run(running)
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		return errors.Join(err, app.Shutdown(stop))
	})
	g.Go(func() error {
		defer admin.close()
		err := newGateway(d.cfg, d.logger, d.listeners.public, d.limit, admin).run(gatewayCtx, d.replica)
		return errors.Join(err, issuer.Close())
	})
	if d.postgres != nil {
		g.Go(func() error {
			select {
			case <-running.Done():
				return nil
			case <-d.postgres.Done():
				return fmt.Errorf("PostgreSQL stopped by itself; its log is %s", d.postgres.LogFile())
			}
		})
	}
	return g.Wait()
}
