package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// scaled is the cost of a message as the work grows along one axis, all else as
// it was.
type scaled struct {
	Points []*scalePoint `json:"points"`
}

type scalePoint struct {
	Axis   string     `json:"axis"` // users, replicas or events
	Value  int        `json:"value"`
	Rate   float64    `json:"messages_per_second"` // median
	CPU    float64    `json:"cpu_us_per_message"`  // median
	Ratio  float64    `json:"cpu_ratio"`           // to the first point of the axis, median over the rounds
	Runs   []*figures `json:"runs"`
	change func(*options)
}

var scaleMode = mode{
	name:    "scale",
	summary: "Whether a message costs more as the work grows: CPU per message over users, replicas and events in the log, up to what -users, -replicas and -past say.",
	example: "bench scale -users 100000 -replicas 4 -past 10000000 -duration 5s",
	defaults: func(o *options) {
		// The warm-up is longer than the deliver delay: jobs are part of the cost.
		o.users, o.connected, o.replicas, o.past, o.duration, o.warmup = 100_000, 8000, 4, 10_000_000, 6*time.Second, 12*time.Second
	},
	own: true,
}

// scaleRounds is how often each point is measured: all of them, then all again.
const scaleRounds = 3

func runScale(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseOptions(scaleMode, args, stderr)
	if errors.Is(err, errHelp) {
		return err
	}
	if err != nil {
		return usageError{err}
	}
	remove, err := buildGateway(ctx, &o, stderr)
	if err != nil {
		return err
	}
	defer remove()
	s, err := scale(ctx, o, stderr)
	if err != nil {
		return err
	}
	if err := s.table(stdout); err != nil {
		return err
	}
	if o.json != "" {
		if err := save(o.json, s); err != nil {
			return err
		}
	}
	return s.verdict()
}

// scalePoints are the steps of each axis: users and events by tens, replicas
// doubled.
func scalePoints(most options) (points []*scalePoint) {
	add := func(axis string, value int, change func(*options)) {
		points = append(points, &scalePoint{Axis: axis, Value: value, change: change})
	}
	for users := 100; users <= most.users; users *= 10 {
		add("users", users, func(o *options) { o.users, o.connected = users, most.connected })
	}
	for replicas := 1; replicas <= most.replicas; replicas *= 2 {
		add("replicas", replicas, func(o *options) { o.replicas = replicas })
	}
	add("events", 0, func(*options) {})
	for events := 100_000; events <= most.past; events *= 10 {
		add("events", events, func(o *options) { o.past = events })
	}
	return points
}

func scale(ctx context.Context, most options, out io.Writer) (*scaled, error) {
	s := &scaled{Points: scalePoints(most)}
	m, _ := findMode("throughput")
	for round := range scaleRounds {
		for _, p := range s.Points {
			o := most
			o.mode, o.users, o.connected, o.replicas, o.past = m.name, 200, 0, 1, 0
			p.change(&o)
			fmt.Fprintf(out, "%d %s, round %d of %d\n", p.Value, p.Axis, round+1, scaleRounds)
			f, err := measure(ctx, m, o, out)
			if err != nil {
				return nil, fmt.Errorf("%d %s: %w", p.Value, p.Axis, err)
			}
			p.Runs = append(p.Runs, f)
		}
	}
	var first *scalePoint
	for _, p := range s.Points {
		if first == nil || first.Axis != p.Axis {
			first = p
		}
		cpu := column(p.Runs, cpuMetric)
		p.Rate, p.CPU = medianOf(column(p.Runs, rateMetric)), medianOf(cpu)
		p.Ratio = pairRatio(column(first.Runs, cpuMetric), cpu)
	}
	return s, nil
}

func (s *scaled) verdict() error {
	for _, p := range s.Points {
		for _, f := range p.Runs {
			if !f.Verdict.Clean() {
				return fmt.Errorf("%w: %d %s: %v", errViolated, p.Value, p.Axis, f.Verdict)
			}
		}
	}
	return nil
}

func (s *scaled) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprint(w, "axis\t\tmessages/s\tCPU µs per message\tto the first\n")
	for _, p := range s.Points {
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%.0f\t%.2f\n", p.Axis, p.Value, p.Rate, p.CPU, p.Ratio)
	}
	if s.verdict() == nil {
		fmt.Fprint(w, "verdict\tin order, nothing lost, in all runs\n")
	}
	return w.Flush()
}

// axis is the points of one axis as a line of CPU per message.
func (s *scaled) axis(name string) (line []point) {
	for _, p := range s.Points {
		if p.Axis == name {
			line = append(line, point{float64(p.Value), p.CPU})
		}
	}
	return line
}
