package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// trial is a mode with its flags, run for the bars.
type trial struct {
	name  string // what the bars call it
	args  string // the mode and its flags
	floor bool   // also against the floor, in turns
	once  bool   // not repeated: long, and not a matter of a few per cent
}

// trials are the runs behind bars 1 to 7. Together, with three repeats, they take
// about ten minutes on two cores.
var trials = []trial{
	{name: "64 publishers", args: "throughput -publishers 64 -duration 4s -warmup 1s", floor: true},
	{name: "16 publishers", args: "throughput -publishers 16 -duration 4s -warmup 1s", floor: true},
	{name: "groups", args: "batch -duration 4s -warmup 1s", floor: true},
	{name: "500/s", args: "latency -rate 500 -duration 6s -warmup 1s", floor: true},
	{name: "2000/s", args: "latency -rate 2000 -duration 5s -warmup 1s", floor: true},
	{name: "500/s across", args: "latency -rate 500 -duration 6s -warmup 1s -replicas 2 -cross"},
	{name: "drain", args: "drain -users 100 -backlog 1000", floor: true},
	{name: "storm", args: "storm -users 5000 -backlog 20 -replicas 3", once: true},
	{name: "idle", args: "idle -connections 10000 -settle 15s -duration 10s", once: true},
	{name: "quiet", args: "quiet -connections 10000 -settle 12s -duration 20s", once: true},
	{name: "offline", args: "offline -streams 1000000 -jobs 100000 -duration 3s -warmup 1s -settle 2s", once: true},
}

// longTrials are those of bar 8.
var longTrials = []trial{
	{name: "soak", args: "soak -rate 3000 -duration 20m -every 10s -gateway-flags=-retention=2m", once: true},
}

// results are all runs, and what the bars make of them.
type results struct {
	Machine machine               `json:"machine"`
	Bars    []bar                 `json:"bars"`
	Runs    map[string]*trialRuns `json:"runs"`
	Scale   *scaled               `json:"scale,omitempty"`
}

type trialRuns struct {
	Command string     `json:"command"`
	Gateway []*figures `json:"gateway"`
	Floor   []*figures `json:"floor,omitempty"`
}

const barsUsage = `Measure what the project promises about speed, next to the floor in turns, and
print each bar: figure, ratio to the floor, target, met or not.

  bench bars                        bars 1 to 7, about ten minutes
  bench bars -long                  bar 8 too, about an hour more
  bench bars -only drain,storm      only some of the runs
  bench bars -out deploy            and write deploy/bench/figures.json, deploy/bench/*.svg
                                    and the tables in deploy/BENCHMARKS.md

A bar that is not met is no failure of the command; a violation of order or a loss
is.

Flags:
`

func runBars(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench bars", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, barsUsage); flags.PrintDefaults() }
	repeats := flags.Int("repeats", 3, "how often each run is repeated, floor and gateway in turns")
	long := flags.Bool("long", false, "bar 8 too: soak and scale")
	only := flags.String("only", "", "names of the runs to do, comma-separated: "+trialNames())
	out := flags.String("out", "", "directory with BENCHMARKS.md to write figures, plots and tables into")
	server := flags.String("server", "", "gateway binary to measure (default: go build ./cmd/server)")
	dir := flags.String("dir", "", "where the private PostgreSQL keeps its data")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return errHelp
		}
		return usageError{err}
	}
	if flags.NArg() > 0 || *repeats < 1 || *repeats > maxRepeats {
		return usageError{fmt.Errorf("bars takes no arguments, and -repeats 1 to %d", maxRepeats)}
	}
	wanted, err := chooseTrials(*only, *long)
	if err != nil {
		return usageError{err}
	}
	base := options{server: *server, dir: *dir}
	remove, err := buildGateway(ctx, &base, stderr)
	if err != nil {
		return err
	}
	defer remove()
	r, err := runTrials(ctx, base, wanted, *repeats, stderr)
	if err != nil {
		return err
	}
	if *long && *only == "" {
		o := commonDefaults(scaleMode)
		o.server, o.dir = base.server, base.dir
		if r.Scale, err = scale(ctx, o, stderr); err != nil {
			return err
		}
	}
	r.judge()
	if err := r.table(stdout); err != nil {
		return err
	}
	if *out != "" {
		if err := os.MkdirAll(filepath.Join(*out, "bench"), 0o755); err != nil {
			return err
		}
		if err := save(filepath.Join(*out, "bench", "figures.json"), r); err != nil {
			return err
		}
		if err := r.publish(*out); err != nil {
			return err
		}
	}
	return r.verdict()
}

func trialNames() string {
	var names []string
	for _, t := range slices.Concat(trials, longTrials) {
		names = append(names, t.name)
	}
	return strings.Join(names, ", ")
}

func chooseTrials(only string, long bool) ([]trial, error) {
	if only == "" && long {
		return slices.Concat(trials, longTrials), nil
	}
	if only == "" {
		return trials, nil
	}
	var chosen []trial
	for name := range strings.SplitSeq(only, ",") {
		all := slices.Concat(trials, longTrials)
		i := slices.IndexFunc(all, func(t trial) bool { return t.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no %q; there are %s", name, trialNames())
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// options of a trial; base says which gateway and where.
func (t trial) options(base options) (mode, options, error) {
	words := strings.Fields(t.args)
	m, found := findMode(words[0])
	if !found {
		return m, base, fmt.Errorf("there is no mode %q", words[0])
	}
	o, err := parseOptions(m, words[1:], io.Discard)
	o.server, o.dir = base.server, base.dir
	return m, o, err
}

// runTrials goes round all trials as often as they are repeated, so that a slow
// minute of the machine spoils one round and not all runs of one kind.
func runTrials(ctx context.Context, base options, wanted []trial, repeats int, out io.Writer) (*results, error) {
	r := &results{Machine: describeMachine(), Runs: map[string]*trialRuns{}}
	began := time.Now()
	for round := range repeats {
		for i, t := range wanted {
			if t.once && round > 0 {
				continue
			}
			m, o, err := t.options(base)
			if err != nil {
				return nil, err
			}
			if r.Runs[t.name] == nil {
				r.Runs[t.name] = &trialRuns{Command: "bench " + t.args}
			}
			fmt.Fprintf(out, "%4.0fs  round %d of %d, run %d of %d: %s\n", time.Since(began).Seconds(), round+1, repeats, i+1, len(wanted), t.args)
			if err := r.Runs[t.name].add(ctx, m, o, t.floor, out); err != nil {
				return nil, fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	r.Machine.finish(time.Since(began))
	return r, nil
}

func (r *trialRuns) add(ctx context.Context, m mode, o options, floor bool, out io.Writer) error {
	if !m.own { // the others take their time, and say what they do
		out = io.Discard
	}
	if floor {
		against := o
		against.target = "floor"
		f, err := measure(ctx, m, against, out)
		if err != nil {
			return fmt.Errorf("floor: %w", err)
		}
		r.Floor = append(r.Floor, f)
	}
	f, err := measure(ctx, m, o, out)
	if err != nil {
		return err
	}
	r.Gateway = append(r.Gateway, f)
	return nil
}

func (r *results) verdict() error {
	for name, runs := range r.Runs {
		for _, f := range slices.Concat(runs.Floor, runs.Gateway) {
			if !f.Verdict.Clean() {
				return fmt.Errorf("%w: %s against %s: %v", errViolated, name, f.Target, f.Verdict)
			}
		}
	}
	if r.Scale != nil {
		return r.Scale.verdict()
	}
	return nil
}
