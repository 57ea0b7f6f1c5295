package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Between these lines of BENCHMARKS.md stands what the tool writes.
const (
	reportBegin = "<!-- figures: written by make bench, not by hand -->"
	reportEnd   = "<!-- end of figures -->"
)

const reportUsage = `Write plots and the tables of BENCHMARKS.md again from the figures of bench bars.

  bench report -out deploy

Flags:
`

func runReport(_ context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench report", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, reportUsage); flags.PrintDefaults() }
	out := flags.String("out", "deploy", "directory with BENCHMARKS.md and bench/figures.json")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return errHelp
		}
		return usageError{err}
	}
	r, err := loadResults(*out)
	if err != nil {
		return err
	}
	if len(r.Runs) == 0 {
		return fmt.Errorf("%s has no runs; bench bars -out %s writes it", figuresFile(*out), *out)
	}
	r.judge()
	if err := r.table(stdout); err != nil {
		return err
	}
	return r.publish(*out)
}

// publish writes the plots and the part of BENCHMARKS.md that is made of figures.
func (r *results) publish(dir string) error {
	plots := r.plots()
	for _, p := range plots {
		if err := os.WriteFile(filepath.Join(dir, "bench", p.file), p.chart.draw(), 0o644); err != nil {
			return err
		}
	}
	path := filepath.Join(dir, "BENCHMARKS.md")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(text, []byte(reportBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(reportEnd))
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q to write the figures between", path, reportBegin, reportEnd)
	}
	var b bytes.Buffer
	b.Write(before)
	b.WriteString(reportBegin + "\n\n")
	r.markdown(&b, plots)
	b.WriteString(reportEnd)
	b.Write(after)
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func (r *results) markdown(b *bytes.Buffer, plots []plot) {
	for _, line := range r.machines() {
		fmt.Fprintf(b, "%s.\n\n", line)
	}
	b.WriteString("| bar | what | figure | floor | ratio (least–most) | target | met |\n|---|---|---:|---:|---:|---|---|\n")
	for i := range r.Bars {
		bar := &r.Bars[i]
		figure, floor, ratio, met := bar.cells()
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s |\n", bar.Number, bar.What, figure, floor, ratio, cmp.Or(bar.Target, "–"), met)
	}
	for _, line := range r.failures() {
		fmt.Fprintf(b, "| – | %s | – | – | – | – | failed |\n", strings.ReplaceAll(line, "|", "/"))
	}
	for i := range axes {
		for n, g := range r.growth(&axes[i]) {
			if n == 0 {
				fmt.Fprintf(b, "\n| %s | messages/s | CPU µs per message | to the first |\n|---:|---:|---:|---:|\n", g.axis.name)
			}
			fmt.Fprintf(b, "| %d | %.0f | %.0f | %.2f |\n", g.value, g.rate, g.cpu, g.ratio)
		}
	}
	b.WriteString("\nWhat was run:\n\n```sh\n")
	for _, t := range trials(true) {
		if runs := r.Runs[t.name]; runs != nil {
			fmt.Fprintf(b, "go run ./cmd/%s\n", runs.Command)
		}
	}
	b.WriteString("```\n\n")
	for _, p := range plots {
		fmt.Fprintf(b, "![%s](bench/%s)\n\n", strings.NewReplacer("[", "", "]", "").Replace(p.chart.title), p.file)
	}
}

type plot struct {
	file  string
	chart *chart
}

// plots are the diagrams of those runs that were done.
func (r *results) plots() (all []plot) {
	add := func(file string, c *chart) { all = append(all, plot{file, c}) }
	if c := r.pairs("Messages per second, POST to acknowledged", "messages/s", rateMetric,
		"16 publishers", "64 publishers", "groups"); len(c.names) > 0 {
		add("throughput.svg", c)
	}
	if c := r.pairs("CPU of server and database per message", "µs", cpuMetric, "16 publishers", "64 publishers", "groups"); len(c.names) > 0 {
		add("cpu.svg", c)
	}
	if c := r.pairs("POST to client, p99", "ms", p99Metric, "500/s"); len(c.names) > 0 {
		add("latency.svg", c)
	}
	if f := r.first("soak"); f != nil {
		add("soak-cpu.svg", &chart{title: "Soak: CPU per message", x: "seconds", y: "µs", series: []series{
			{"both", soakLine(f, cpuOfSample)},
			{"server", soakLine(f, func(s soakSample) float64 { return cmp.Or(s.CPU, &cpu{}).Server })},
			{"PostgreSQL", soakLine(f, func(s soakSample) float64 { return cmp.Or(s.CPU, &cpu{}).Postgres })},
		}})
		add("soak-size.svg", &chart{title: "Soak: tables (two with their indexes), and memory of the server", x: "seconds", y: "MiB", series: []series{
			{"events", soakLine(f, func(s soakSample) float64 { return mib(s.table("events").Bytes) })},
			{"events' indexes", soakLine(f, func(s soakSample) float64 { return mib(s.table("events").Indexes) })},
			{"streams", soakLine(f, sizeOf("streams"))}, {"river_job", soakLine(f, sizeOf("river_job"))},
			{"server", soakLine(f, func(s soakSample) float64 { return mib(s.Memory) })},
		}})
		add("soak-dead.svg", &chart{title: "Soak: dead rows", x: "seconds", y: "rows", series: []series{
			{"events", soakLine(f, deadOf("events"))}, {"streams", soakLine(f, deadOf("streams"))}, {"river_job", soakLine(f, deadOf("river_job"))},
		}})
	}
	for i := range axes {
		a := &axes[i]
		steps := r.growth(a)
		if a.plot == "" || len(steps) == 0 {
			continue
		}
		var line []point
		for _, g := range steps {
			line = append(line, point{float64(g.value), g.cpu})
		}
		add("scale-"+a.plot+".svg", &chart{title: "CPU per message, " + a.name, x: a.plot, y: "µs", logX: a.plot != "replicas",
			series: []series{{"server and PostgreSQL", line}}})
	}
	return all
}

// pairs compares floor and gateway in one metric of some trials.
func (r *results) pairs(title, y, metric string, trials ...string) *chart {
	c := &chart{title: title, y: y}
	floor, gateway := series{name: "floor"}, series{name: "Restante"}
	for _, t := range trials {
		if b, ok := r.of(t, metric); ok {
			label := t
			if t == "groups" {
				label = "100 per POST"
			}
			c.names = append(c.names, label)
			floor.points, gateway.points = append(floor.points, point{Y: b.Floor}), append(gateway.points, point{Y: b.Figure})
		}
	}
	c.series = []series{floor, gateway}
	return c
}

func soakLine(f *figures, value func(soakSample) float64) (line []point) {
	for _, s := range f.Soak {
		line = append(line, point{s.Seconds, value(s)})
	}
	return line
}

func sizeOf(table string) func(soakSample) float64 {
	return func(s soakSample) float64 { return mib(s.table(table).Bytes + s.table(table).Indexes) }
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func deadOf(table string) func(soakSample) float64 {
	return func(s soakSample) float64 { return float64(s.table(table).Dead) }
}

func (s soakSample) table(name string) tableSize {
	for _, t := range s.Tables {
		if t.Name == name {
			return t
		}
	}
	return tableSize{}
}
