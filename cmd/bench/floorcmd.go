package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgxpool"

	"restante/cmd/bench/floor"
)

// runFloor serves the floor until the context ends.
func runFloor(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench floor", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, `Serve the floor: the least a server can do that answers 202 after a commit and
keeps a message until a client has confirmed it. See package floor.

  bench floor -dsn 'postgres://user@127.0.0.1/scratch' -addr 127.0.0.1:7001

Flags:
`)
		flags.PrintDefaults()
	}
	dsn := flags.String("dsn", "", "PostgreSQL URL; the table floor in it is dropped and made anew")
	addr := flags.String("addr", "127.0.0.1:7001", "loopback address to listen on: nobody is authenticated")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return errHelp
		}
		return usageError{err}
	}
	if *dsn == "" || flags.NArg() > 0 {
		return usageError{errors.New("floor needs -dsn and no arguments")}
	}
	if host, _, err := net.SplitHostPort(*addr); err != nil || !loopbackHost(host) {
		return usageError{fmt.Errorf("-addr is %q, want a loopback address and a port", *addr)}
	}
	db, err := pgxpool.New(ctx, *dsn)
	if err != nil {
		return fmt.Errorf("-dsn: %w", err)
	}
	defer db.Close()
	server, err := floor.New(ctx, db, logger(stderr))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	return server.Run(ctx, listener)
}
