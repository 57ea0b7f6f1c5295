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
	"text/tabwriter"
)

const maxRepeats = 20

// comparison is a mode run for two servers in turns, A B B A …: this machine is
// not the same from one minute to the next, but two neighbours mostly are, and
// who comes second finds warmer caches or a slower disk as often as who comes first.
type comparison struct {
	Mode    string     `json:"mode"`
	A       string     `json:"a"`
	B       string     `json:"b"`
	Metrics []compared `json:"metrics"`
	RunsA   []*figures `json:"runs_a"`
	RunsB   []*figures `json:"runs_b"`
}

// compared is one metric of all runs.
type compared struct {
	Name    string    `json:"name"`
	A       []float64 `json:"a"`
	B       []float64 `json:"b"`
	MedianA float64   `json:"median_a"`
	MedianB float64   `json:"median_b"`
	Ratio   float64   `json:"ratio"` // median of B/A over the pairs of neighbours
}

const compareUsage = `Run a mode for two servers in turns, A B B A …, and compare the medians.

  bench compare -repeats 3 throughput -publishers 64
  bench compare -a restante -b restante drain        how much two equal runs differ
  bench compare -a ./server.before -b ./server.after throughput
  bench compare -a floor -b floor=./other throughput

A and B are floor, restante, a gateway binary (or a script that starts one with
other settings), or floor= and a program that talks like the floor (-floor-server). The ratio is the median of B/A over the pairs.

Flags (those of the mode come after its name):
`

func runCompare(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench compare", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, compareUsage); flags.PrintDefaults() }
	repeats := flags.Int("repeats", 3, "pairs of runs")
	a := flags.String("a", "floor", "first server")
	b := flags.String("b", "restante", "second server")
	json := flags.String("json", "", "also write all figures to this file")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return errHelp
		}
		return usageError{err}
	}
	m, found := findMode(flags.Arg(0))
	if !found || *repeats < 1 || *repeats > maxRepeats {
		return usageError{fmt.Errorf("compare needs a mode (it has %q) and 1 to %d repeats", flags.Arg(0), maxRepeats)}
	}
	o, err := parseOptions(m, flags.Args()[1:], stderr)
	if errors.Is(err, errHelp) {
		return err
	}
	if err != nil {
		return usageError{err}
	}
	if o.urls != "" {
		return usageError{errors.New("compare starts both servers itself, without -url")}
	}
	if *a == "restante" || *b == "restante" {
		remove, err := buildGateway(ctx, &o, stderr)
		if err != nil {
			return err
		}
		defer remove()
	}
	c, err := compare(ctx, m, o, *a, *b, *repeats, stderr)
	if err != nil {
		return err
	}
	if err := c.table(stdout); err != nil {
		return err
	}
	if *json != "" {
		if err := save(*json, c); err != nil {
			return err
		}
	}
	return c.verdict()
}

func findMode(name string) (mode, bool) {
	all := modes()
	i := slices.IndexFunc(all, func(m mode) bool { return m.name == name })
	if i < 0 {
		return mode{}, false
	}
	return all[i], true
}

// buildGateway builds the gateway once for several runs, unless -server names
// one. Call remove in the end.
func buildGateway(ctx context.Context, o *options, out io.Writer) (remove func(), err error) {
	if o.server != "" {
		return func() {}, nil
	}
	dir, err := os.MkdirTemp("", "restante-bench-")
	if err != nil {
		return nil, err
	}
	// What cannot be removed is left to whoever cleans the temporary directory.
	remove = func() { _ = os.RemoveAll(dir) }
	fmt.Fprintln(out, "building the gateway")
	o.server = filepath.Join(dir, "server")
	if err := goBuild(ctx, o.server, "restante/cmd/server"); err != nil {
		remove()
		return nil, err
	}
	return remove, nil
}

// against makes the options of a run for one of the servers.
func (o options) against(server string) (options, error) {
	other, isOther := strings.CutPrefix(server, "floor=")
	switch {
	case server == "floor":
		o.target = "floor"
	case isOther:
		o.target, o.floorServer = "floor", other
	case server == "restante":
		o.target = "restante"
	default:
		if _, err := os.Stat(server); err != nil {
			return o, usageError{fmt.Errorf("%q is neither floor nor restante nor a gateway binary: %w", server, err)}
		}
		o.target, o.server = "restante", server
	}
	if err := o.validate(); err != nil {
		return o, usageError{err}
	}
	return o, nil
}

func compare(ctx context.Context, m mode, o options, a, b string, repeats int, out io.Writer) (*comparison, error) {
	c := &comparison{Mode: m.name, A: a, B: b}
	optionsA, err := o.against(a)
	if err != nil {
		return nil, err
	}
	optionsB, err := o.against(b)
	if err != nil {
		return nil, err
	}
	for i := range repeats {
		fmt.Fprintf(out, "%s, pair %d of %d\n", m.name, i+1, repeats)
		var fa, fb *figures
		err := inTurns(i,
			func() (err error) { fa, err = measure(ctx, m, optionsA, out); return in(a, err) },
			func() (err error) { fb, err = measure(ctx, m, optionsB, out); return in(b, err) })
		if err != nil {
			return nil, err
		}
		c.RunsA, c.RunsB = append(c.RunsA, fa), append(c.RunsB, fb)
	}
	c.compare()
	return c, nil
}

// inTurns runs both, in every other round the second first.
func inTurns(round int, a, b func() error) error {
	if round%2 == 1 {
		a, b = b, a
	}
	first := a()
	return errors.Join(first, b())
}

// in says where an error comes from.
func in(where string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", where, err)
}

// compare fills in Metrics: those that all runs of both servers have.
func (c *comparison) compare() {
	for _, m := range c.RunsA[0].headline() {
		x := compared{Name: m.Name, A: column(c.RunsA, m.Name), B: column(c.RunsB, m.Name)}
		if len(x.A) != len(c.RunsA) || len(x.B) != len(c.RunsB) {
			continue
		}
		x.MedianA, x.MedianB, x.Ratio = medianOf(x.A), medianOf(x.B), medianOf(ratios(c.RunsA, c.RunsB, m.Name))
		c.Metrics = append(c.Metrics, x)
	}
}

// verdict is errViolated if any run was not correct.
func (c *comparison) verdict() error {
	for _, f := range slices.Concat(c.RunsA, c.RunsB) {
		if !f.Verdict.Clean() {
			return fmt.Errorf("%w: %s against %s: %v", errViolated, f.Mode, f.Target, f.Verdict)
		}
	}
	return nil
}

func (c *comparison) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "%s\tA: %s\tB: %s\tB/A\tall of A\tall of B\n", c.Mode, name(c.A), name(c.B))
	for _, m := range c.Metrics {
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%s\t%s\n", m.Name, short(m.MedianA), short(m.MedianB), m.Ratio, shorts(m.A), shorts(m.B))
	}
	for _, f := range slices.Concat(c.RunsA, c.RunsB) {
		if trouble := f.trouble(); trouble != "" {
			fmt.Fprintf(w, "not valid\t%s\n", trouble)
		}
	}
	if c.verdict() == nil {
		fmt.Fprintf(w, "verdict\tin order, nothing lost, in all %d runs\n", len(c.RunsA)+len(c.RunsB))
	}
	return w.Flush()
}

// name is a server's name for a table.
func name(server string) string { return filepath.Base(server) }

// short writes a number with three or four digits that count.
func short(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10 || v <= -10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func shorts(values []float64) string {
	all := make([]string, len(values))
	for i, v := range values {
		all[i] = short(v)
	}
	return strings.Join(all, ", ")
}
