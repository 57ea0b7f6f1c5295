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
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/devstack"
	"restante/internal/publishers"
	"restante/internal/tokens"
	"restante/migrations"
)

// environment is what a run talks to: started for it, or running already.
type environment struct {
	database string
	db       *pgxpool.Pool
	servers  []string // host:port
	gateways []*child // those of the servers that were started here
	admins   []string // host:port of the gateways' admin listeners
	pids     []int    // of the servers
	postgres []int    // of Postgres, empty if it is not on this machine
	key      string   // API key
	keyFile  string   // where it is, empty for the floor
	issuer   string   // URL, empty for the floor
	ids      identities

	stops []func() error // in the order of starting
}

// stop ends everything that was started, the last first.
func (e *environment) stop() error {
	var errs []error
	for i := len(e.stops) - 1; i >= 0; i-- {
		errs = append(errs, e.stops[i]())
	}
	e.stops = nil
	return errors.Join(errs...)
}

// How long parts may take to come up and to go down.
const (
	startWithin = 30 * time.Second
	stopWithin  = 20 * time.Second
)

// newEnvironment starts what the options ask for, or finds it. Stop it in any
// case when there is no error.
func newEnvironment(ctx context.Context, o *options, out io.Writer) (*environment, error) {
	e := &environment{}
	var err error
	if o.urls != "" {
		err = e.find(ctx, o)
	} else {
		err = e.start(ctx, o, out)
	}
	if err != nil {
		return nil, errors.Join(err, e.stop())
	}
	if pid, ok := postmaster(ctx, e.db); ok {
		e.postgres = []int{pid}
	}
	return e, nil
}

func (e *environment) find(ctx context.Context, o *options) (err error) {
	if e.servers, err = addresses("-url", o.urls); err != nil {
		return err
	}
	if err := e.open(ctx, o.database); err != nil {
		return err
	}
	if o.admins != "" {
		if e.admins, err = addresses("-admin", o.admins); err != nil {
			return err
		}
	}
	if o.pids != "" {
		for text := range strings.SplitSeq(o.pids, ",") {
			pid, err := strconv.Atoi(strings.TrimSpace(text))
			if err != nil {
				return fmt.Errorf("-server-pid: %w", err)
			}
			e.pids = append(e.pids, pid)
		}
	}
	if o.target == "floor" {
		return nil
	}
	key, err := os.ReadFile(o.keyFile)
	if err != nil {
		return fmt.Errorf("-api-key-file: %w", err)
	}
	e.key = strings.TrimSpace(string(key))
	e.ids = newDevUsers(o.issuer)
	return nil
}

// open connects to the database for what bench itself wants to know.
func (e *environment) open(ctx context.Context, url string) error {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return fmt.Errorf("database URL: %w", err)
	}
	if host := config.ConnConfig.Host; !strings.HasPrefix(host, "/") && !loopbackHost(host) {
		return fmt.Errorf("database on %s: bench puts load on this machine only", host)
	}
	config.MaxConns = 2
	if e.db, err = pgxpool.NewWithConfig(ctx, config); err != nil {
		return err
	}
	e.database = url
	e.stops = append(e.stops, func() error { e.db.Close(); return nil })
	return e.db.Ping(ctx)
}

func (e *environment) start(ctx context.Context, o *options, out io.Writer) error {
	dir, err := e.startDatabase(ctx, o, out)
	if err != nil {
		return err
	}
	if o.target == "floor" {
		return e.startFloor(ctx, o, dir)
	}
	return e.startGateways(ctx, o, dir, out)
}

// startDatabase returns the directory of the run.
func (e *environment) startDatabase(ctx context.Context, o *options, out io.Writer) (dir string, err error) {
	if dir, err = os.MkdirTemp(o.dir, "restante-bench-"); err != nil {
		return "", err
	}
	e.stops = append(e.stops, func() error { return os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil { // Postgres may run as another user and must pass
		return "", err
	}
	url, err := e.startPostgres(ctx, dir, out)
	if err != nil {
		return "", err
	}
	return dir, e.open(ctx, url)
}

func (e *environment) startPostgres(ctx context.Context, dir string, out io.Writer) (url string, err error) {
	const name = "bench"
	fmt.Fprintln(out, "starting a private PostgreSQL")
	binaries, err := devstack.FindPostgres(ctx, true, out)
	if err != nil {
		return "", err
	}
	postgres, err := devstack.StartPostgres(ctx, devstack.PostgresConfig{Dir: filepath.Join(dir, "postgres"), BinDir: binaries})
	if err != nil {
		return "", err
	}
	e.stops = append(e.stops, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
		defer cancel()
		return postgres.Stop(ctx)
	})
	return postgres.URL(name), postgres.CreateDatabase(ctx, name)
}

func (e *environment) startFloor(ctx context.Context, o *options, dir string) error {
	binary, args := o.floorServer, []string(nil)
	if binary == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		binary, args = self, []string{"floor"}
	}
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	c, err := startChild(dir, "floor", o.environ(), binary, append(args, "-dsn", e.database, "-addr", addr)...)
	if err != nil {
		return err
	}
	stop := c.stop
	if o.floorServer != "" {
		stop = c.kill // it need not know how to stop
	}
	e.stops = append(e.stops, stop)
	e.servers, e.pids = []string{addr}, []int{c.pid()}
	return c.ready(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (e *environment) startGateways(ctx context.Context, o *options, dir string, out io.Writer) error {
	binary := o.server
	if binary == "" {
		fmt.Fprintln(out, "building the gateway")
		binary = filepath.Join(dir, "server")
		if err := goBuild(ctx, binary, "restante/cmd/server"); err != nil {
			return err
		}
	}
	if err := migrations.Up(ctx, e.database, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	key, err := tokens.NewKey()
	if err != nil {
		return err
	}
	keyring := filepath.Join(dir, "keyring.json")
	if err := tokens.WriteFile(keyring, []tokens.Key{key}); err != nil {
		return err
	}
	_, e.key, err = publishers.New(e.db, prometheus.NewRegistry()).Create(ctx, "bench", []string{"publish", "read"}, "")
	if err != nil {
		return fmt.Errorf("make an API key: %w", err)
	}
	e.keyFile = filepath.Join(dir, "api-key")
	if err := os.WriteFile(e.keyFile, []byte(e.key+"\n"), 0o600); err != nil {
		return err
	}
	issuer, err := startIssuer()
	if err != nil {
		return fmt.Errorf("start an issuer: %w", err)
	}
	e.stops = append(e.stops, issuer.stop)
	e.ids, e.issuer = issuer, issuer.url
	for i := range o.replicas {
		if err := e.startGateway(ctx, o, fmt.Sprint("gateway-", i), dir, binary, keyring); err != nil {
			return err
		}
	}
	return nil
}

func (e *environment) startGateway(ctx context.Context, o *options, name, dir, binary, keyring string) error {
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	args := append([]string{"-listen", addr, "-admin-listen", admin, "-oidc-issuer", e.issuer, "-oidc-audience", audience, "-token-keyring", keyring}, strings.Fields(o.flags)...)
	c, err := startChild(dir, name, append(o.environ(), "DATABASE_URL="+e.database, "RESTANTE_TOKENS_PER_USER=0", "RESTANTE_CONNECTS_PER_USER=0"), binary, args...)
	if err != nil {
		return err
	}
	e.stops = append(e.stops, c.stop)
	e.gateways = append(e.gateways, c)
	e.servers, e.admins, e.pids = append(e.servers, addr), append(e.admins, admin), append(e.pids, c.pid())
	return c.ready(ctx, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, "GET", "http://"+admin+"/readyz", http.NoBody)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return errors.New(answer.Status)
		}
		return nil
	})
}

// environ is what servers find in their environment besides ours.
func (o *options) environ() []string {
	if o.cores == 0 {
		return nil
	}
	return []string{"GOMAXPROCS=" + strconv.Itoa(o.cores)}
}

// killGateway ends a gateway without a goodbye. It is not measured any more.
func (e *environment) killGateway(i int) error {
	e.pids, e.admins = slices.Delete(slices.Clone(e.pids), i, i+1), slices.Delete(slices.Clone(e.admins), i, i+1)
	return e.gateways[i].kill()
}

// freeAddress returns a loopback address nobody listens on. Somebody else may
// take it before the child does; then the child fails and says so.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
