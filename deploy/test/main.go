// Command test runs the stack of deploy/compose.yaml for real and judges it: make
// compose-test. It needs a Docker engine, or root on a Debian machine, where it starts
// one of its own and stops it again; where neither is to be had it says SKIPPED and
// why, with exit code 0. Exit code 1: something that must hold did not.
//
//	go run ./deploy/test             everything, about eighteen minutes
//	go run ./deploy/test -keep       leave the stack up at the end, to look at it
//	go run ./deploy/test -run load   only steps whose name matches, and what they need
//	go run ./deploy/test -skip image all but steps whose name matches
//
// What is shown: the stack comes up from nothing with one command; the seed's seven
// steps work with msg on this machine and in a container; under load (two hundred
// connections, two hundred messages a second through the published port) replicas are
// added, removed, drained, restarted and killed, PostgreSQL and HAProxy restarted, and
// the checker finds nothing lost and nothing out of order, with no failed POST where
// none may fail; messages outlive down and up, and nothing outlives down -v. Every
// shell block of deploy/README.md is run as it is written there. All of it happens in
// a fresh clone of HEAD: what is not committed is not tested.
//
// The identity provider is the development issuer and Grafana is left out, see
// deploy/compose.test.yaml. Base images come from a registry; if none can be reached,
// the script that RESTANTE_BASE_IMAGES_SCRIPT names makes stand-ins for them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// skip is the reason why nothing could be tried. Wrapped or joined with anything else
// it is a failure like any other.
type skip string

func (s skip) Error() string { return string(s) }

func skipped(format string, args ...any) error { return skip(fmt.Sprintf(format, args...)) }

// also cleans up, and adds what went wrong with that.
func also(err *error, cleanUp func() error) {
	if failure := cleanUp(); failure != nil {
		*err = errors.Join(*err, failure)
	}
}

type options struct {
	keep    bool
	only    *regexp.Regexp
	skip    *regexp.Regexp
	users   int
	devices int
	rate    int
	phase   time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.BoolVar(&o.keep, "keep", false, "leave the stack up at the end")
	flag.IntVar(&o.users, "users", 100, "users under load")
	flag.IntVar(&o.devices, "devices", 2, "connections of each")
	flag.IntVar(&o.rate, "rate", 200, "messages a second")
	flag.DurationVar(&o.phase, "phase", 10*time.Second, "how long a phase lasts at least")
	only := flag.String("run", "", "only the steps whose name this regular `expression` matches")
	not := flag.String("skip", "^$", "no steps whose name this regular `expression` matches, but for build and up")
	flag.Parse()
	o.only, o.skip = regexp.MustCompile(*only), regexp.MustCompile(*not)
	started := time.Now()
	switch err := run(ctx, o).(type) {
	case nil:
		fmt.Printf("compose-test passed in %s\n", time.Since(started).Round(time.Second))
	case skip:
		fmt.Printf("compose-test SKIPPED: %v\n", err)
	default:
		fmt.Printf("compose-test FAILED after %s: %v\n", time.Since(started).Round(time.Second), err)
		os.Exit(1)
	}
}

// run is the whole test. What it started it stops, in any case.
func run(ctx context.Context, o options) (err error) {
	root, err := repository()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "restante-compose-test-")
	if err != nil {
		return err
	}
	if !o.keep {
		defer also(&err, func() error { return os.RemoveAll(dir) })
	}

	engine, err := findEngine(ctx, dir)
	if err != nil {
		return err
	}
	if !o.keep {
		defer also(&err, engine.stop)
	}
	s, err := newStack(ctx, root, dir, engine)
	if err != nil {
		return err
	}
	if err := s.baseImages(); err != nil {
		return err
	}
	if !o.keep {
		defer also(&err, s.remove)
	}
	defer func() {
		if err != nil {
			s.evidence()
		}
	}()
	t := &test{stack: s, options: o}
	return t.all()
}

// test is the order in which things are tried.
type test struct {
	*stack
	options
}

func (t *test) all() error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"the files are valid", t.valid},
		{"build", t.build},
		{"the image", t.image},
		{"the same image elsewhere", t.sameImage},
		{"up", t.up},
		{"no secrets in sight", t.noSecrets},
		{"the seed's seven steps, on this machine", t.sevenStepsHere},
		{"the seed's seven steps, in containers", t.sevenStepsInContainers},
		{"Prometheus sees all", t.prometheus},
		{"the edge's limits", t.edgeLimits},
		{"the commands of deploy/README.md", t.readme},
		{"under load", t.underLoad},
		{"down and up keeps messages", t.downAndUp},
		{"down -v leaves nothing", t.downLeavesNothing},
		{"secrets of one's own", t.ownSecrets},
	} {
		if step.name == "down -v leaves nothing" && t.keep {
			break
		}
		needed := step.name == "build" || step.name == "up"
		if !needed && (!t.only.MatchString(step.name) || t.skip.MatchString(step.name)) {
			continue
		}
		began := time.Now()
		t.say("== %s", step.name)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		t.say("   %s", time.Since(began).Round(100*time.Millisecond))
	}
	return nil
}

// repository is the directory of go.mod, above the one we were started in.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "deploy", "compose.yaml")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("run it inside the repository")
		}
		dir = parent
	}
}
