// Msg is the command line of the gateway, for people who try it and for those
// who run it.
//
// It keeps the command names and options of the seed (create-user, auth,
// connect-websocket, send-message) and adds what a publisher or an operator
// needs: publish, message, status, keys, keyring, secrets.
//
// What a program may want to read goes to standard output: messages as they
// arrive, the export line of auth, a new key. Everything said to a person goes
// to standard error. The exit code is 0 when the command did what it says, 1
// when it could not, 2 when it was called wrongly.
//
// A message is acknowledged only after it has been written to standard output,
// so that what a broken pipe or a full disk swallows is delivered again.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"restante/internal/buildinfo"
)

func main() {
	// The first signal ends what is going on in order; with the handler gone, a
	// second one kills.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], &env{
		getenv: os.Getenv, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, stateDir: stateDir(os.Getenv),
	}))
}

// env is the world outside, as the commands see it.
type env struct {
	getenv         func(string) string
	stdin          io.Reader
	stdout, stderr io.Writer
	stateDir       string // of the development gateway; "" when there is no home
}

// say writes a line for the person at the terminal.
func (e *env) say(format string, args ...any) {
	fmt.Fprintf(e.stderr, format+"\n", args...)
}

// command is one line of the table of commands.
type command struct {
	name    string
	args    string // what follows the options, as the usage line shows it
	short   string // one line for the overview
	long    string // the page of help: what it does, and examples
	prepare func(e *env, f *flags) action
}

// action is a command whose options have been read; args are the rest.
type action func(ctx context.Context, args []string) error

func commands() []command {
	return []command{
		createUserCommand(), authCommand(), connectCommand(), sendCommand(),
		publishCommand(), messageCommand(), statusCommand(),
		keysCommand(), keyringCommand(), secretsCommand(),
	}
}

// usageError is a mistake in how the command was called.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, e *env) int {
	if len(args) == 0 {
		overview(e.stderr)
		return 2
	}
	name, rest := args[0], args[1:]
	switch name {
	case "-version", "--version", "version":
		fmt.Fprintln(e.stdout, "restante-msg", buildinfo.Read())
		return 0
	case "-h", "-help", "--help":
		overview(e.stdout)
		return 0
	case "help":
		if len(rest) == 0 {
			overview(e.stdout)
			return 0
		}
		name, rest = rest[0], []string{"-h"}
	}
	cmd, found := lookup(name)
	if !found {
		e.say("msg: there is no command %q. See msg -h.", name)
		return 2
	}
	f := newFlags(cmd)
	act := cmd.prepare(e, f)
	positional, err := f.parse(rest)
	switch {
	case errors.Is(err, errHelp):
		f.help(e.stdout)
		return 0
	case err == nil:
		err = act(ctx, positional)
	}
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		e.say("msg %s: %s\nSee msg %s -h.", cmd.name, usage.msg, cmd.name)
		return 2
	default:
		e.say("msg %s: %s", cmd.name, plain(err))
		return 1
	}
}

func lookup(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

func overview(w io.Writer) {
	fmt.Fprint(w, `Msg talks to a Restante gateway, its sample application and its issuer.

  msg COMMAND [options] [arguments]

`)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-18s %s\n", c.name, c.short)
	}
	fmt.Fprint(w, `
msg COMMAND -h explains one command, with examples. A first round, with the
gateway started by "make run":

  msg create-user -p 'Correct-Horse-1'
  eval "$(msg auth -p 'Correct-Horse-1')"
  msg connect-websocket &
  msg send-message "The report is ready" -w 5

Where things are, unless the environment says otherwise:

  RESTANTE_URL         http://127.0.0.1:8080   the gateway
  RESTANTE_ISSUER      http://127.0.0.1:8081   the OIDC issuer of the users
  RESTANTE_SAMPLE_URL  http://127.0.0.1:8082   the sample application
  RESTANTE_CLIENT_ID   restante                the OIDC client
  RESTANTE_API_KEY     in development the gateway's own, else none
  ID_TOKEN             set by: eval "$(msg auth -p PASSWORD)"
  DATABASE_URL         for keys; in development the gateway's own

RESTANTE_API_KEY_FILE and DATABASE_URL_FILE name files with those two.
`)
}
