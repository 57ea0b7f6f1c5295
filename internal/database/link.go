package database

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ErrCut: the link was cut.
var ErrCut = errors.New("the connections to Postgres were given up")

// Link is one replica's way to Postgres. Each new connection is checked before it is
// used, and all of them can be ended at once: after Cut nothing of the replica
// reaches Postgres, whatever still runs in it.
type Link struct {
	check func(context.Context, *pgx.Conn) error

	mu    sync.Mutex // guards all below
	cut   bool
	conns map[net.Conn]struct{}
}

// NewLink makes a Link. Connections that check returns an error for are closed.
func NewLink(check func(context.Context, *pgx.Conn) error) *Link {
	return &Link{check: check, conns: map[net.Conn]struct{}{}}
}

// Open opens a pool. It does not wait for Postgres.
func (l *Link) Open(ctx context.Context, cfg *pgxpool.Config) (*pgxpool.Pool, error) {
	l.take(cfg.ConnConfig)
	prepared := cfg.AfterConnect
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		if err := l.check(ctx, conn); err != nil || prepared == nil {
			return err
		}
		return prepared(ctx, conn)
	}
	return Open(ctx, cfg)
}

// Connector returns a function that opens connections outside of the pools.
func (l *Link) Connector(cfg *pgx.ConnConfig) func(context.Context) (*pgx.Conn, error) {
	l.take(cfg)
	connect := Connector(cfg)
	return func(ctx context.Context) (*pgx.Conn, error) {
		conn, err := connect(ctx)
		if err != nil {
			return nil, err
		}
		if err := l.check(ctx, conn); err != nil {
			_ = conn.Close(ctx) // it is of no use either way
			return nil, err
		}
		return conn, nil
	}
}

// Cut ends every connection and refuses new ones.
func (l *Link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for conn := range l.conns {
		conn.Close()
	}
	clear(l.conns)
}

// take makes connections of cfg the link's.
func (l *Link) take(cfg *pgx.ConnConfig) {
	dial := cfg.DialFunc
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return l.add(conn)
	}
}

func (l *Link) add(conn net.Conn) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		conn.Close()
		return nil, ErrCut
	}
	l.conns[conn] = struct{}{}
	return &linkConn{conn, l}, nil
}

// linkConn is one connection of a link.
type linkConn struct {
	net.Conn
	link *Link
}

// Close implements net.Conn.
func (c *linkConn) Close() error {
	c.link.mu.Lock()
	delete(c.link.conns, c.Conn)
	c.link.mu.Unlock()
	return c.Conn.Close()
}

// ensureDurable makes a commit wait for the disk whatever Postgres's configuration,
// the database's or the role's says. An operator may ask for more than that. It is
// set for the session, so that a change of the configuration does not undo it.
func ensureDurable(ctx context.Context, conn *pgx.Conn) error {
	const sql = `
SELECT set_config('synchronous_commit', CASE s WHEN 'off' THEN 'on' ELSE s END, false)
FROM current_setting('synchronous_commit') AS s`
	var setting string
	if err := conn.QueryRow(ctx, sql).Scan(&setting); err != nil {
		return err
	}
	if setting == "off" {
		return errors.New("synchronous_commit is off and cannot be turned on: a message that was answered 202 would not be on disk")
	}
	return nil
}

// writable is target_session_attrs=read-write, which is what the gateway needs of
// several hosts, unless the URL says something else.
func writable(cfg *pgconn.Config) {
	if cfg.ValidateConnect == nil {
		cfg.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
}
