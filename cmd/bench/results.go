package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
)

// results are all runs, and what the bars make of them.
type results struct {
	Bars []bar                 `json:"bars"`
	Runs map[string]*trialRuns `json:"runs"`
}

// trialRuns are the rounds of a trial: the n-th of one list belongs to the n-th
// of the other, and is null where it failed.
type trialRuns struct {
	Command  string     `json:"command"`
	Machine  *machine   `json:"machine"`
	Failures []string   `json:"failures,omitempty"` // a line each
	Gateway  []*figures `json:"gateway"`
	Floor    []*figures `json:"floor,omitempty"`
}

// bar is one line of what is promised about speed.
type bar struct {
	Number  string  `json:"number"`
	What    string  `json:"what"`
	Figure  float64 `json:"figure"` // median
	Unit    string  `json:"unit"`
	Floor   float64 `json:"floor,omitempty"`      // the floor's figure, 0 for none
	Ratio   float64 `json:"ratio,omitempty"`      // figure to floor, median over the pairs, 0 for none
	Low     float64 `json:"ratio_low,omitempty"`  // of the pairs
	High    float64 `json:"ratio_high,omitempty"` // of the pairs
	Target  string  `json:"target,omitempty"`     // "" for what is only to be read
	Met     bool    `json:"met"`
	Trouble string  `json:"trouble,omitempty"` // why it is not valid
}

func (b *bar) ratios(all []float64) {
	if len(all) > 0 {
		b.Ratio, b.Low, b.High = medianOf(all), slices.Min(all), slices.Max(all)
	}
}

// cells are a bar's columns for people.
func (b *bar) cells() (figure, floor, ratio, met string) {
	figure, floor, ratio, met = short(b.Figure)+" "+b.Unit, "–", "–", "no"
	if b.Floor != 0 {
		floor = short(b.Floor)
	}
	if b.Ratio != 0 {
		ratio = fmt.Sprintf("%.2f (%.2f–%.2f)", b.Ratio, b.Low, b.High)
	}
	switch {
	case b.Trouble != "":
		met = "not valid: " + b.Trouble
	case b.Target == "":
		met = "–"
	case b.Met:
		met = "yes"
	}
	return figure, floor, ratio, met
}

// loadResults reads what bars has written, nothing if it never did.
func loadResults(out string) (*results, error) {
	r := &results{Runs: map[string]*trialRuns{}}
	text, err := os.ReadFile(figuresFile(out))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", figuresFile(out), err)
	}
	return r, nil
}

// runs are those that did not fail.
func (r *trialRuns) runs() []*figures {
	return slices.DeleteFunc(slices.Concat(r.Gateway, r.Floor), func(f *figures) bool { return f == nil })
}

func (r *trialRuns) trouble() string {
	for _, f := range r.runs() {
		if trouble := f.trouble(); trouble != "" {
			return f.Target + ": " + trouble
		}
	}
	return ""
}

// first is the first run of a trial, nil if it was not done.
func (r *results) first(trial string) *figures {
	if runs := r.Runs[trial]; runs != nil {
		for _, f := range runs.Gateway {
			if f != nil {
				return f
			}
		}
	}
	return nil
}

// failures are lines "trial, round n, target: why".
func (r *results) failures() (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(r.Runs)) {
		for _, why := range r.Runs[name].Failures {
			lines = append(lines, name+", "+why)
		}
	}
	return lines
}

// machines are the sessions that the runs are of, each with its runs.
func (r *results) machines() (lines []string) {
	of := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(r.Runs)) {
		at := r.Runs[name].Machine.String()
		if of[at] != "" {
			name = of[at] + ", " + name
		}
		of[at] = name
	}
	if len(of) == 1 {
		return slices.Collect(maps.Keys(of))
	}
	for _, at := range slices.Sorted(maps.Keys(of)) {
		lines = append(lines, at+" ("+of[at]+")")
	}
	return lines
}

func (r *results) table(out io.Writer) error {
	for _, line := range r.machines() {
		fmt.Fprintln(out, line)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprint(w, "bar\twhat\tfigure\tfloor\tratio\ttarget\tmet\n")
	for i := range r.Bars {
		b := &r.Bars[i]
		figure, floor, ratio, met := b.cells()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.Number, b.What, figure, floor, ratio, cmp.Or(b.Target, "–"), met)
	}
	for _, line := range r.failures() {
		fmt.Fprintf(w, "failed\t%s\n", line)
	}
	if r.verdict() == nil {
		fmt.Fprint(w, "verdict\tin order, nothing lost, in all runs\n")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return r.growthTable(out)
}

// growthTable is each step along which the work grows.
func (r *results) growthTable(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for i := range axes {
		for n, g := range r.growth(&axes[i]) {
			if n == 0 {
				fmt.Fprintf(w, "%s\tmessages/s\tCPU µs per message\tto the first\n", g.axis.name)
			}
			fmt.Fprintf(w, "%d\t%.0f\t%.0f\t%.2f\n", g.value, g.rate, g.cpu, g.ratio)
		}
	}
	return w.Flush()
}

// errFailed means that the table has already said it.
var errFailed = errors.New("some runs failed")

func (r *results) verdict() error {
	for name, runs := range r.Runs {
		for _, f := range runs.runs() {
			if !f.Verdict.Clean() {
				return fmt.Errorf("%w: %s against %s: %v", errViolated, name, f.Target, f.Verdict)
			}
		}
	}
	if len(r.failures()) > 0 {
		return errFailed
	}
	return nil
}
