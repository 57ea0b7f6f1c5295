package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const barsUsage = `Measure what the project promises about speed, next to the floor in turns, and
print each bar: figure, ratio to the floor, target, met or not.

  bench bars                        bars 1 to 7, about 17 minutes
  bench bars -long                  bar 8 too, about 70 minutes in all
  bench bars -only drain,storm      only some of the runs
  bench bars -only scale            only users, replicas, events and cores of bar 8
  bench bars -out deploy            and write deploy/bench/figures.json, deploy/bench/*.svg
                                    and the tables in deploy/BENCHMARKS.md

With -out, runs that are not done again stay as they are in figures.json, each
with its own date, commit and machine. A run that fails is a line of the table
and ends nothing but itself.

A bar that is not met is no failure of the command; a violation of order, a loss
or a run that failed is.

Flags:
`

func runBars(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench bars", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, barsUsage); flags.PrintDefaults() }
	repeats := flags.Int("repeats", 3, "how often each run is repeated, floor and gateway in turns")
	long := flags.Bool("long", false, "bar 8 too, and longer windows for bar 6")
	plan := flags.Bool("plan", false, "only say what would be run, and how long it would take")
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
	if err := printPlan(wanted, *repeats, stderr); err != nil || *plan {
		return err
	}
	r := &results{Runs: map[string]*trialRuns{}}
	if *out != "" {
		if r, err = loadResults(*out); err != nil {
			return err
		}
	}
	base := options{server: *server, dir: *dir}
	remove, err := buildGateway(ctx, &base, stderr)
	if err != nil {
		return err
	}
	defer remove()
	err = r.run(ctx, base, wanted, *repeats, *out, stderr)
	r.judge() // what there is, also if it was interrupted
	if err := r.table(stdout); err != nil {
		return err
	}
	if *out != "" {
		err = errors.Join(err, r.save(*out), r.publish(*out))
	}
	return errors.Join(err, r.verdict())
}

func printPlan(wanted []trial, repeats int, out io.Writer) error {
	for _, t := range wanted {
		took, err := estimate([]trial{t}, repeats)
		if err != nil {
			return err
		}
		floor := ""
		if t.floor {
			floor = ", floor and gateway in turns"
		}
		fmt.Fprintf(out, "%5s  %d × bench %s%s\n", took.Round(time.Second), t.repeats(repeats), t.args, floor)
	}
	took, err := estimate(wanted, repeats)
	fmt.Fprintf(out, "%5s  in all, about\n", took.Round(time.Second))
	return err
}

// run goes round all trials as often as they are repeated, so that a slow minute
// of the machine spoils one round and not all runs of one kind. What is done is
// saved at once.
func (r *results) run(ctx context.Context, base options, wanted []trial, repeats int, out string, stderr io.Writer) error {
	m, err := describeMachine(ctx, base, stderr)
	if err != nil {
		return err
	}
	fmt.Fprintln(stderr, m)
	for round := range repeats {
		for i, t := range wanted {
			if round >= t.repeats(repeats) {
				continue
			}
			mode, o, err := t.options(base)
			if err != nil {
				return err
			}
			fmt.Fprintf(stderr, "%4.0fs  round %d of %d, run %d of %d: %s\n", time.Since(m.At).Seconds(), round+1, repeats, i+1, len(wanted), t.args)
			runs := r.Runs[t.name]
			if round == 0 {
				runs = &trialRuns{Command: "bench " + t.args, Machine: m}
			}
			runs.add(ctx, mode, o, round, t.floor, stderr)
			if err := ctx.Err(); err != nil {
				return err // and what was there before stays
			}
			r.Runs[t.name] = runs
			m.now()
			if out != "" {
				if err := r.save(out); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// add runs one round. What fails is noted.
func (r *trialRuns) add(ctx context.Context, m mode, o options, round int, floor bool, out io.Writer) {
	against := func(o options, runs *[]*figures) func() error {
		return func() error {
			f, err := measure(ctx, m, o, out)
			*runs = append(*runs, f) // nil keeps the place of its round
			if err != nil && ctx.Err() == nil {
				r.Failures = append(r.Failures, fmt.Sprintf("round %d, %s: %.300s", round+1, o.target, strings.Join(strings.Fields(err.Error()), " ")))
				fmt.Fprintln(out, "failed:", err)
			}
			return nil
		}
	}
	gateway, other := against(o, &r.Gateway), func() error { return nil }
	if floor {
		other = against(o.onFloor(), &r.Floor)
	}
	_ = inTurns(round, other, gateway) // its errors are noted
}

func (r *results) save(out string) error {
	r.judge()
	if err := os.MkdirAll(filepath.Join(out, "bench"), 0o755); err != nil {
		return err
	}
	return save(figuresFile(out), r)
}

func figuresFile(out string) string { return filepath.Join(out, "bench", "figures.json") }
