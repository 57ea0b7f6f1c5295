package main

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// bar is one line of what is promised about speed.
type bar struct {
	Number string  `json:"number"`
	What   string  `json:"what"`
	Figure float64 `json:"figure"`
	Unit   string  `json:"unit"`
	Floor  float64 `json:"floor,omitempty"` // the floor's figure, 0 for none
	Ratio  float64 `json:"ratio,omitempty"` // figure to floor, median over the pairs
	Target string  `json:"target"`
	Met    bool    `json:"met"`
}

// judge makes the bars of those runs that were done.
func (r *results) judge() {
	r.Bars = nil
	r.judgeThroughput()
	r.judgeLatency()
	r.judgeReturn()
	r.judgeIdle()
	r.judgeOffline()
	r.judgeGrowth()
}

// of returns the medians of one metric of a trial and the ratio of its pairs.
func (r *results) of(trial, metric string) (b bar, done bool) {
	runs := r.Runs[trial]
	if runs == nil {
		return b, false
	}
	gateway, floor := column(runs.Gateway, metric), column(runs.Floor, metric)
	return bar{Figure: medianOf(gateway), Floor: medianOf(floor), Ratio: pairRatio(floor, gateway)}, len(gateway) > 0
}

func (r *results) add(number, what, unit string, b bar, met bool, target string) {
	b.Number, b.What, b.Unit, b.Met, b.Target = number, what, unit, met, target
	r.Bars = append(r.Bars, b)
}

func (r *results) judgeThroughput() {
	if b, ok := r.of("64 publishers", rateMetric); ok {
		r.add("1", "one message per POST, 64 publishers", "messages/s", b, b.Figure >= 12_000 && b.Ratio >= 1.25, "≥ 12,000 and ≥ 1.25 × floor")
	}
	if b, ok := r.of("64 publishers", cpuMetric); ok {
		r.add("1", "CPU of server and database for it", "µs/message", b, b.Figure <= 85, "≤ 85")
	}
	if b, ok := r.of("16 publishers", rateMetric); ok {
		r.add("1", "one message per POST, 16 publishers", "messages/s", b, b.Ratio >= 1.1, "≥ 1.1 × floor")
	}
	if b, ok := r.of("groups", rateMetric); ok {
		r.add("2", "100 messages per POST", "messages/s", b, b.Figure >= 60_000, "≥ 60,000")
	}
}

func (r *results) judgeLatency() {
	same, sameOK := r.of("500/s", p50Metric)
	if sameOK {
		r.add("3", "POST to client at 500/s, p50", "ms", same, same.Ratio <= 1.2, "≤ 1.2 × floor")
	}
	if b, ok := r.of("500/s", p99Metric); ok {
		r.add("3", "POST to client at 500/s, p99", "ms", b, b.Ratio <= 1.2, "≤ 1.2 × floor")
	}
	if b, ok := r.of("2000/s", p99Metric); ok {
		r.add("3", "POST to client at 2,000/s, p99", "ms", b, b.Figure <= 12, "≤ 12")
	}
	if b, ok := r.of("500/s across", p50Metric); ok && sameOK {
		r.add("3", "through another replica at 500/s, p50", "ms", b, b.Figure <= same.Figure+1, fmt.Sprintf("≤ 1 ms more (≤ %.2f)", same.Figure+1))
	}
}

func (r *results) judgeReturn() {
	if b, ok := r.of("drain", rateMetric); ok {
		r.add("4", "100 users come back to 1,000 messages each", "messages/s", b, b.Ratio >= 1.5, "≥ 1.5 × floor")
	}
	if b, ok := r.of("drain", settledMetric); ok {
		r.add("4", "… until all is acknowledged in the database", "s", b, b.Ratio <= 1, "≤ floor")
	}
	if f := r.first("storm"); f != nil {
		b := bar{Figure: f.Storm.DeliveredSeconds - f.Storm.FirstSeconds}
		r.add("4", fmt.Sprintf("a replica with %v users dies: until %d pending messages are delivered", f.Settings["users"], f.Storm.Pending),
			"s", b, b.Figure <= 10, "≤ 10")
	}
}

func (r *results) judgeIdle() {
	if f := r.first("idle"); f != nil {
		i := f.Idle
		r.add("5", fmt.Sprintf("an idle connection of %d: memory", i.Connections), "KiB", bar{Figure: i.BytesEach / 1024}, i.BytesEach <= 11<<10, "≤ 11")
		r.add("5", "… goroutines", "", bar{Figure: i.GoroutinesEach}, i.GoroutinesEach <= 1.05, "1")
		each := i.ServerCorePercent * 1000 / float64(i.Connections)
		r.add("5", "… server CPU per 1,000", "% of a core", bar{Figure: each}, each <= 0.5, "≤ 0.5")
	}
	if f := r.first("quiet"); f != nil {
		q := f.Quiet
		more := q.WALBytesPerSecond - q.WALBytesWithout
		r.add("7", fmt.Sprintf("%d idle connections: write-ahead log they cause", q.Connections), "bytes/s", bar{Figure: more}, more <= 100, "none")
		r.add("7", "… CPU of PostgreSQL", "% of a core", bar{Figure: q.PostgresCorePercent}, q.PostgresCorePercent < 1, "< 1")
	}
}

func (r *results) judgeOffline() {
	f := r.first("offline")
	if f == nil {
		return
	}
	o := f.Offline
	within := func(ratio float64) bool { return math.Abs(ratio-1) <= 0.1 }
	rate := o.After.Rate / o.Before.Rate
	r.add("6", fmt.Sprintf("publish rate with %d offline users, to that without", o.Streams), "×", bar{Figure: rate}, rate >= 0.9, "1 ± 0.1")
	memory := float64(o.After.Memory) / float64(o.Before.Memory)
	r.add("6", "… memory of the server, to that without", "×", bar{Figure: memory}, within(memory), "1 ± 0.1")
	r.add("6", fmt.Sprintf("River's fetch with %d jobs not yet due", o.Jobs), "ms", bar{Figure: o.FetchJobs}, o.FetchJobs <= 10, "≤ 10 (2 % of a core)")
}

func (r *results) judgeGrowth() {
	if r.Scale != nil {
		for _, axis := range []string{"users", "replicas", "events"} {
			worst, most := 1.0, 0
			for _, p := range r.Scale.Points {
				if p.Axis != axis {
					continue
				}
				most = p.Value
				if math.Abs(p.Ratio-1) > math.Abs(worst-1) {
					worst = p.Ratio
				}
			}
			r.add("8", fmt.Sprintf("CPU per message, up to %d %s: the largest change", most, axis), "×", bar{Figure: worst}, math.Abs(worst-1) <= 0.15, "1 ± 0.15")
		}
	}
	if f := r.first("soak"); f != nil && len(f.Soak) >= 8 {
		quarter := len(f.Soak) / 4
		change := meanCPU(f.Soak[len(f.Soak)-quarter:]) / meanCPU(f.Soak[:quarter])
		r.add("8", fmt.Sprintf("CPU per message over %.0f minutes, last quarter to first", f.Seconds/60), "×", bar{Figure: change}, math.Abs(change-1) <= 0.15, "1 ± 0.15")
	}
}

func meanCPU(samples []soakSample) float64 {
	sum := 0.0
	for _, s := range samples {
		if s.CPU != nil {
			sum += s.CPU.Both
		}
	}
	return sum / float64(len(samples))
}

// first is the first run of a trial, nil if it was not done.
func (r *results) first(trial string) *figures {
	if runs := r.Runs[trial]; runs != nil && len(runs.Gateway) > 0 {
		return runs.Gateway[0]
	}
	return nil
}

// cells are a bar's columns for people.
func (b *bar) cells() (figure, floor, ratio, met string) {
	figure, floor, ratio, met = short(b.Figure)+" "+b.Unit, "–", "–", "no"
	if b.Floor != 0 {
		floor, ratio = short(b.Floor), fmt.Sprintf("%.2f", b.Ratio)
	}
	if b.Met {
		met = "yes"
	}
	return figure, floor, ratio, met
}

func (r *results) table(out io.Writer) error {
	fmt.Fprintln(out, r.Machine)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprint(w, "bar\twhat\tfigure\tfloor\tratio\ttarget\tmet\n")
	for i := range r.Bars {
		b := &r.Bars[i]
		figure, floor, ratio, met := b.cells()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", b.Number, b.What, figure, floor, ratio, b.Target, met)
	}
	if r.verdict() == nil {
		fmt.Fprint(w, "verdict\tin order, nothing lost, in all runs\n")
	}
	return w.Flush()
}
