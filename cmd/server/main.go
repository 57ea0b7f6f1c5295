// Command server is the gateway: it takes messages, keeps them in the event log
// on Postgres and delivers them to the connections of this replica. Any number of
// replicas share one Postgres.
//
//	server -database-url postgres://… -oidc-issuer https://… -token-keyring keys.json
//	server -dev        everything a developer needs on one machine, in one process
//
// run owns every goroutine: nothing below it starts one that it does not wait for.
//
// # Log keys
//
// Logs are JSON (text with -dev), with these keys and no others, here and in the
// sample application; messages and tokens are never logged. Durations are numbers
// of seconds.
//
//	replica version part                   who writes
//	address admin listen gateway issuer    where it listens and what it speaks to
//	err reason problem stack               what went wrong
//	route method status remote publisher   an HTTP request
//	unlogged_before                        lines like this one that were left out before it
//	session sessions                       connections
//	events lanes streams replicas jobs     how many were found and put right, or left for later
//	path keys issuing_kid                  the keyring
//	epoch system timeline                  the log's history
//	elapsed_seconds                        how long it took
//	task_id user_id seq due percent        a task of the sample application
//	tasks lost attempt attempts repeated   how its tasks and posts fare
//	wait_seconds left_seconds              a task's time
//	retry_in_seconds grace_seconds         when it posts again, how long it may at the end
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
