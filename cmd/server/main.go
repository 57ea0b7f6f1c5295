// Command server is the gateway: it takes messages, keeps them in the event log
// on Postgres and delivers them to the connections of this replica. Any number of
// replicas share one Postgres.
//
//	server -database-url postgres://… -oidc-issuer https://… -token-keyring keys.json
//	server -dev        everything a developer needs on one machine, in one process
//
// run owns every goroutine: nothing below it starts one that it does not wait for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"restante/internal/buildinfo"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() { // a second signal kills
		<-ctx.Done()
		stop()
	}()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cfg, err := parseConfig(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "server: %v\nRun 'server -h' for what can be set.\n", err)
		return exitUsage
	case cfg.version:
		fmt.Fprintln(stdout, "restante", buildinfo.Read())
		return exitOK
	case cfg.health != "":
		return health(ctx, cfg.health, stdout, stderr)
	}
	logger := newLogger(cfg, stderr)
	if cfg.dev.on {
		err = runDev(ctx, cfg, logger, stdout)
	} else {
		err = serve(ctx, cfg, logger)
	}
	if err != nil {
		fmt.Fprintf(stderr, "server: %v\n", err)
		return exitError
	}
	return exitOK
}

func newLogger(cfg config, stderr io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.logLevel}
	if cfg.dev.on {
		return slog.New(slog.NewTextHandler(stderr, options))
	}
	return slog.New(slog.NewJSONHandler(stderr, options))
}
