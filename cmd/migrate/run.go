package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

// Exit codes. They are part of the interface: scripts and init containers wait
// for a schema with `status`.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
	exitBehind = 3 // status: the schema is not this release's
)

const usage = `restante-migrate brings a database's schema to what this release of Restante needs.

Usage:

  restante-migrate [flags] COMMAND

Commands:

  up         migrate: River's tables first, then the event log's. Safe to repeat,
             and to run from several replicas at once: they take turns
  status     print the schema's versions; exit code 3 unless they are this release's
  version    print the versions this release needs, and its own
  new-epoch  after restoring a backup: give the log a new epoch, so that clients
             start again instead of skipping what gets the same seq a second time

Flags:

  -database-url URL   the database (default: the environment's DATABASE_URL, or
                      what is in the file that DATABASE_URL_FILE names)
  -timeout DURATION   give up after this long, waiting for others included
                      (default 5m0s; 0 means never)
  -yes                new-epoch: do it

Examples:

  export DATABASE_URL='postgres://restante:secret@db.internal:5432/restante'
  restante-migrate up
  restante-migrate status && echo ready
  restante-migrate -timeout 1h up             # a big table, an index to build
  restante-migrate new-epoch -yes             # gateway stopped, backup restored
  go run ./cmd/migrate up                     # the same from the source

The connection must not go through a pooler in transaction mode (PgBouncer):
the lock that makes replicas take turns belongs to a session.
`

// command is one word of the command line.
type command func(ctx context.Context, o options) error

func commands() map[string]command {
	return map[string]command{
		"up":        up,
		"status":    status,
		"version":   version,
		"new-epoch": newEpoch,
	}
}

// options is what the commands get to see of the outside.
type options struct {
	databaseURL string
	yes         bool
	stdout      io.Writer
	log         *slog.Logger
}

var (
	errUsage  = errors.New("usage")
	errBehind = errors.New("the schema is not this release's")
)

// run is the program: it reports to stdout and stderr and returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	name, timeout, o, err := parse(args, getenv)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, usage)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "restante-migrate: %v\nTry: restante-migrate -h\n", err)
		return exitUsage
	}
	o.stdout = stdout
	o.log = slog.New(slog.NewTextHandler(stderr, nil))
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not done after %s (-timeout)", timeout))
		defer cancel()
	}

	err = commands()[name](ctx, o)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errBehind):
		return exitBehind
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "restante-migrate: %v\n", err)
		return exitUsage
	default:
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		fmt.Fprintf(stderr, "restante-migrate: %s: %v\n", name, err)
		return exitFailed
	}
}

// parse reads the command line. Flags may stand before or after the command.
func parse(args []string, getenv func(string) string) (name string, timeout time.Duration, o options, err error) {
	flags := flag.NewFlagSet("restante-migrate", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.databaseURL, "database-url", "", "")
	flags.DurationVar(&timeout, "timeout", 5*time.Minute, "")
	flags.BoolVar(&o.yes, "yes", false, "")
	if err := flags.Parse(args); err != nil {
		return "", 0, options{}, err
	}
	if name = flags.Arg(0); name == "" {
		return "", 0, options{}, errors.New("which command: up, status, version or new-epoch?")
	}
	if name == "help" {
		return "", 0, options{}, flag.ErrHelp
	}
	if commands()[name] == nil {
		return "", 0, options{}, fmt.Errorf("%q is no command: up, status, version or new-epoch", name)
	}
	if err := flags.Parse(flags.Args()[1:]); err != nil {
		return "", 0, options{}, err
	}
	switch {
	case flags.NArg() > 0:
		return "", 0, options{}, fmt.Errorf("%s takes no arguments, got %q", name, flags.Arg(0))
	case timeout < 0:
		return "", 0, options{}, fmt.Errorf("-timeout %s is negative", timeout)
	}
	if o.databaseURL == "" {
		o.databaseURL = getenv("DATABASE_URL")
	}
	if file := getenv("DATABASE_URL_FILE"); o.databaseURL == "" && file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", 0, options{}, fmt.Errorf("DATABASE_URL_FILE: %w", err)
		}
		o.databaseURL = strings.TrimSpace(string(text))
	}
	if o.databaseURL == "" && name != "version" {
		return "", 0, options{}, errors.New("which database? Set DATABASE_URL or -database-url, for example postgres://user:password@host:5432/restante")
	}
	return name, timeout, o, nil
}
