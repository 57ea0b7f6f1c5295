// Command bench puts load on a gateway, measures it, and proves with the order
// and loss checker that what it measured was correct: a run that loses, reorders
// or invents a message ends with exit code 1, whatever its figures.
//
//	bench throughput                 the whole thing with one command
//	bench throughput -target floor   the same load on the cheapest durable server
//	bench latency -rate 500 -json latency.json
//	bench idle -connections 10000
//	bench drain -users 100 -backlog 1000
//	bench compare throughput         the same against floor and gateway in turns
//	bench up                         start the same servers and leave them to you
//	bench floor -dsn URL             only the floor's server
//
// By itself bench starts all it needs on loopback addresses, each in a process
// of its own (a private PostgreSQL with fsync on, an OIDC issuer, gateway
// replicas or the floor), and takes it down again. With -url it loads servers
// that are running already. It never loads another machine.
//
// The generator shares the CPUs with what it measures, so its clients are
// written by hand and cheap; figures of two servers compare only if both ran
// with the same settings on the same machine, close in time and repeatedly.
// A throughput run is a closed loop: each publisher waits for its 202. A latency
// run is an open loop: time counts from when a message was due, so a stall
// cannot hide behind the messages it kept from being sent.
//
// Every run is bounded: by -duration and -warmup, by 30 s for what is still on
// its way, by the bounds of each flag. Failed posts and lost connections are
// counted, shown, and retried by nobody: a message of unknown outcome stays one.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0, 1 for a failure or a violation, 2 for wrong usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "floor":
		return exit(runFloor(ctx, args, stderr), stderr)
	case "up":
		return exit(runUp(ctx, args, stdout, stderr), stderr)
	case "compare":
		return exit(runCompare(ctx, args, stdout, stderr), stderr)
	case "bars":
		return exit(runBars(ctx, args, stdout, stderr), stderr)
	case "report":
		return exit(runReport(ctx, args, stdout, stderr), stderr)
	case "-h", "-help", "--help", "help":
		usageText(stdout)
		return 0
	}
	if m, found := findMode(name); found {
		return exit(runMode(ctx, m, args, stdout, stderr), stderr)
	}
	if name != "" {
		fmt.Fprintf(stderr, "bench: unknown mode %q\n\n", name)
	}
	usageText(stderr)
	return 2
}

func usageText(out io.Writer) {
	fmt.Fprint(out, "bench MODE [flags]: load on a gateway, with proof that nothing was lost or reordered\n\n")
	for _, m := range modes() {
		fmt.Fprintf(out, "  %-11s %s\n              %s\n", m.name, m.summary, m.example)
	}
	fmt.Fprint(out, `  bars        Everything the project promises about speed, next to the floor: a table.
              bench bars -out deploy
              bench bars -only scale
  report      Tables and plots again, from the figures that bars has written.
              bench report -out deploy
  compare     Run a mode for two servers in turns and compare the medians.
              bench compare -repeats 3 throughput -publishers 64
  up          Start PostgreSQL, an issuer and gateways (or the floor) and wait for Ctrl-C.
              bench up -replicas 2
  floor       Serve the floor, the cheapest durable server, to compare with.
              bench floor -dsn postgres://... -addr 127.0.0.1:7001

Each takes -h. All but floor start what they need by themselves.
`)
}

// errViolated means that the table has already said it.
var errViolated = errors.New("the order and loss checker found violations")

// usageError is a mistake in the command line.
type usageError struct{ error }

func exit(err error, stderr io.Writer) int {
	var wrong usageError
	switch {
	case err == nil, errors.Is(err, errHelp):
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintln(stderr, "bench:", err)
		return 2
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(stderr, "bench: interrupted")
		return 1
	default:
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
}

func runMode(ctx context.Context, m mode, args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(m, args, stderr)
	if errors.Is(err, errHelp) {
		return err
	}
	if err != nil {
		return usageError{err}
	}
	f, err := measure(ctx, m, o, stderr)
	if err != nil {
		return err
	}
	if err := f.table(stdout); err != nil {
		return err
	}
	if o.json != "" {
		if err := save(o.json, f); err != nil {
			return err
		}
	}
	if !f.Verdict.Clean() {
		return errViolated
	}
	return nil
}

// runUp starts the servers of a run and waits.
func runUp(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parseOptions(mode{name: "up", summary: "Start PostgreSQL, an issuer and gateways (or the floor) and wait for Ctrl-C.", example: "bench up -replicas 2"}, args, stderr)
	if errors.Is(err, errHelp) {
		return err
	}
	if err != nil {
		return usageError{err}
	}
	if o.urls != "" {
		return usageError{errors.New("-url names servers that run already")}
	}
	e, err := newEnvironment(ctx, &o, stderr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.stop()) }()
	var pids []string
	for _, pid := range e.pids {
		pids = append(pids, strconv.Itoa(pid))
	}
	fmt.Fprintf(stdout, "bench throughput -target %s -url %s -database-url '%s' -server-pid %s",
		o.target, urls(e.servers), e.database, strings.Join(pids, ","))
	if o.target != "floor" {
		fmt.Fprintf(stdout, " -admin %s -issuer %s -api-key-file %s", urls(e.admins), e.issuer, e.keyFile)
	}
	fmt.Fprintln(stdout)
	fmt.Fprintln(stdout, "Ctrl-C stops all of it and removes the database.")
	<-ctx.Done()
	return nil
}

func urls(addresses []string) string { return "http://" + strings.Join(addresses, ",http://") }

func logger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
