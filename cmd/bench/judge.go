package main

import (
	"fmt"
	"math"
	"slices"
)

// judge makes the bars of those runs that were done. What could not be measured
// has no bar.
func (r *results) judge() {
	r.Bars = nil
	r.judgeThroughput()
	r.judgeLatency()
	r.judgeReturn()
	r.judgeIdle()
	r.judgeOffline()
	r.judgeGrowth()
	r.judgeSoak()
}

// of returns the medians of one metric of a trial and the ratio of its pairs.
func (r *results) of(trial, metric string) (b bar, done bool) {
	runs := r.Runs[trial]
	if runs == nil {
		return b, false
	}
	gateway := column(runs.Gateway, metric)
	b = bar{Figure: medianOf(gateway), Floor: medianOf(column(runs.Floor, metric))}
	b.ratios(ratios(runs.Floor, runs.Gateway, metric))
	return b, len(gateway) > 0
}

// add appends a bar that rests on the runs of these trials. One without a target
// is there to be read.
func (r *results) add(number, what, unit string, b bar, met bool, target string, trials ...string) {
	b.Number, b.What, b.Unit, b.Target = number, what, unit, target
	for _, t := range trials {
		if runs := r.Runs[t]; runs != nil && b.Trouble == "" {
			b.Trouble = runs.trouble()
		}
	}
	b.Met = met && target != "" && b.Trouble == ""
	r.Bars = append(r.Bars, b)
}

func (r *results) judgeThroughput() {
	const t64, t16, again, groups = "64 publishers", "16 publishers", "64 publishers again", "groups"
	if b, ok := r.of(t64, rateMetric); ok {
		r.add("1", "one message per POST, 64 publishers", "messages/s", b, b.Figure >= 12_000 && b.Ratio >= 1.25, "≥ 12,000 and ≥ 1.25 × floor", t64)
	}
	if b, ok := r.of(t64, cpuMetric); ok {
		r.add("1", "CPU of server and database for it", "µs/message", b, b.Figure <= 85, "≤ 85", t64)
	}
	if one, two := r.Runs[t64], r.Runs[again]; one != nil && two != nil {
		if all := ratios(one.Gateway, two.Gateway, rateMetric); len(all) > 0 {
			r.add("1", fmt.Sprintf("the same again, %s: what ratios are worth", spreadOf(all)), "×", bar{Figure: medianOf(all)}, false, "", t64, again)
		}
	}
	if b, ok := r.of(t16, rateMetric); ok {
		r.add("1", "one message per POST, 16 publishers", "messages/s", b, b.Ratio >= 1.1, "≥ 1.1 × floor", t16)
	}
	if b, ok := r.of(groups, rateMetric); ok {
		r.add("2", "100 messages per POST", "messages/s", b, b.Figure >= 60_000, "≥ 60,000", groups)
	}
	for _, t := range []string{t64, groups, "500/s"} {
		if b, ok := r.of(t, walMetric); ok {
			r.add("–", "write-ahead log, "+t, "bytes/message", b, false, "", t)
		}
	}
}

func (r *results) judgeLatency() {
	const at500, across, at2000 = "500/s", "500/s across", "2000/s"
	same, sameOK := r.of(at500, p50Metric)
	if sameOK {
		r.add("3", "POST to client at 500/s, p50", "ms", same, same.Ratio > 0 && same.Ratio <= 1.2, "≤ 1.2 × floor", at500)
	}
	if b, ok := r.of(at500, p99Metric); ok {
		r.add("3", "POST to client at 500/s, p99", "ms", b, b.Ratio > 0 && b.Ratio <= 1.2, "≤ 1.2 × floor", at500)
	}
	if b, ok := r.of(at2000, p99Metric); ok {
		r.add("3", "POST to client at 2,000/s, p99", "ms", b, b.Figure <= 12, "≤ 12", at2000)
	}
	if b, ok := r.of(across, p50Metric); ok && sameOK {
		b.Floor = same.Floor
		b.ratios(ratios(r.Runs[at500].Floor, r.Runs[across].Gateway, p50Metric))
		r.add("3", "through another replica at 500/s, p50", "ms", b, b.Figure <= same.Figure+1, fmt.Sprintf("≤ 1 ms more (≤ %.2f)", same.Figure+1), across, at500)
	}
}

func (r *results) judgeReturn() {
	const drain, storm = "drain", "storm"
	if b, ok := r.of(drain, rateMetric); ok {
		r.add("4", "100 users come back to 1,000 messages each: until all are received", "messages/s", b, b.Ratio >= 1.5, "≥ 1.5 × floor", drain)
	}
	if b, ok := r.of(drain, settledRateMetric); ok {
		r.add("4", "… until all are acknowledged in the database", "messages/s", b, b.Ratio >= 1.5, "≥ 1.5 × floor", drain)
	}
	if b, ok := r.of(storm, stormMetric); ok {
		s := r.first(storm).Storm
		r.add("4", fmt.Sprintf("a replica with %d users dies: until %d pending messages are delivered", s.Clients, s.Pending), "s", b, b.Figure <= 10, "≤ 10", storm)
	}
}

func (r *results) judgeIdle() {
	const idle = "idle"
	f := r.first(idle)
	if f == nil {
		return
	}
	if b, ok := r.of(idle, memoryMetric); ok {
		r.add("5", fmt.Sprintf("an idle connection of %d: memory", f.Idle.Connections), "KiB", b, b.Figure <= 11, "≤ 11", idle)
	}
	if b, ok := r.of(idle, goroutinesMetric); ok {
		r.add("5", "… goroutines", "", b, b.Figure <= 1.05, "1", idle)
	}
	if b, ok := r.of(idle, idleCPUMetric); ok {
		r.add("5", fmt.Sprintf("… CPU of server and database per 1,000 (in all %s and %s)", short(f.Idle.With.Server), short(f.Idle.With.Postgres)), "% of a core", b, b.Figure <= 0.5, "≤ 0.5", idle)
	}
	if b, ok := r.of(idle, idleWALCausedMetric); ok {
		b.Floor, b.Ratio = 0, 0 // a difference has no ratio
		r.add("7", fmt.Sprintf("%d idle connections: write-ahead log they cause (%s in all)", f.Idle.Connections, short(f.Idle.With.WAL)),
			"bytes/s", b, b.Figure <= 100, "none (≤ 100, as minutes differ)", idle)
	}
	if b, ok := r.of(idle, idlePostgresMetric); ok {
		r.add("7", "… CPU of PostgreSQL, upkeep included", "% of a core", b, b.Figure < 1, "< 1", idle)
	}
}

func (r *results) judgeOffline() {
	const offline = "offline"
	f := r.first(offline)
	if f == nil {
		return
	}
	o := f.Offline
	for _, p := range []struct {
		with  string
		phase phase
	}{{fmt.Sprintf("with %d offline users", o.Streams), o.After}, {fmt.Sprintf("… and %d delivery jobs", o.Jobs), o.WithJobs}} {
		if rate := per(p.phase.Rate, o.Before.Rate); rate > 0 {
			r.add("6", "publish rate "+p.with+", to that without", "×", bar{Figure: rate}, rate >= 0.9, "≥ 0.9", offline)
		}
		if memory := per(float64(p.phase.Memory), float64(o.Before.Memory)); memory > 0 {
			r.add("6", "memory of the server "+p.with+", to that without", "×", bar{Figure: memory}, memory <= 1.1, "≤ 1.1", offline)
		}
	}
	r.add("6", fmt.Sprintf("River's fetch with %d jobs not yet due (%s ms with none)", o.Jobs, short(o.Fetch)), "ms",
		bar{Figure: o.FetchJobs}, o.FetchJobs <= 2 || o.FetchJobs <= 2*o.Fetch, "≤ 2, or twice that with none", offline)
}

// grown is a step of an axis that was done.
type grown struct {
	axis      *axis
	value     int
	rate, cpu float64
	ratio     float64 // of CPU, to the first step: the median of the pairs
}

// growth is the steps of an axis that were done, none if there is nothing to
// compare or nothing to compare with.
func (r *results) growth(a *axis) (all []grown) {
	first := r.Runs[a.steps[0].trial]
	for _, s := range a.steps {
		rate, ok := r.of(s.trial, rateMetric)
		cpu, okCPU := r.of(s.trial, cpuMetric)
		if !ok || !okCPU || first == nil {
			continue
		}
		if pairs := ratios(first.Gateway, r.Runs[s.trial].Gateway, cpuMetric); len(pairs) > 0 {
			all = append(all, grown{a, s.value, rate.Figure, cpu.Figure, medianOf(pairs)})
		}
	}
	if len(all) < 2 {
		return nil
	}
	return all
}

func (r *results) judgeGrowth() {
	for i := range axes {
		a := &axes[i]
		steps := r.growth(a)
		if !a.judged || len(steps) == 0 {
			continue
		}
		worst := slices.MaxFunc(steps, func(a, b grown) int {
			return int(math.Copysign(1, math.Abs(a.ratio-1)-math.Abs(b.ratio-1)))
		}).ratio
		var names []string
		for _, s := range a.steps {
			names = append(names, s.trial)
		}
		r.add("8", fmt.Sprintf("CPU per message, %d to %d %s: the largest change", steps[0].value, steps[len(steps)-1].value, a.name),
			"×", bar{Figure: worst}, math.Abs(worst-1) <= 0.15, "1 ± 0.15", names...)
	}
}

// judgeSoak compares quarters. In the first the log still fills up to its
// retention, so sizes are compared with the second.
func (r *results) judgeSoak() {
	const soak = "soak"
	f := r.first(soak)
	if f == nil || len(f.Soak) < 8 {
		return
	}
	quarter := len(f.Soak) / 4
	first, second, last := f.Soak[:quarter], f.Soak[quarter:2*quarter], f.Soak[len(f.Soak)-quarter:]
	if change := per(mean(last, cpuOfSample), mean(first, cpuOfSample)); change > 0 {
		r.add("8", fmt.Sprintf("CPU per message over %.0f minutes, last quarter to first", f.Seconds/60), "×", bar{Figure: change}, math.Abs(change-1) <= 0.15, "1 ± 0.15", soak)
	}
	if change := per(mean(last, soakSample.size), mean(second, soakSample.size)); change > 0 {
		r.add("8", "… tables and indexes, last quarter to second", "×", bar{Figure: change}, change <= 1.15, "≤ 1.15", soak)
	}
	if change := per(peak(last, soakSample.dead), peak(second, soakSample.dead)); change > 0 {
		r.add("8", fmt.Sprintf("… dead rows at most (%.0f), last quarter to second", peak(last, soakSample.dead)), "×", bar{Figure: change}, change <= 1.5, "≤ 1.5", soak)
	}
}

// mean is the mean of those samples whose value is known, which is not 0.
func mean(samples []soakSample, value func(soakSample) float64) float64 {
	sum, n := 0.0, 0.0
	for _, s := range samples {
		if v := value(s); v > 0 {
			sum, n = sum+v, n+1
		}
	}
	return per(sum, n)
}

func peak(samples []soakSample, value func(soakSample) float64) (highest float64) {
	for _, s := range samples {
		highest = max(highest, value(s))
	}
	return highest
}

func spreadOf(values []float64) string {
	return fmt.Sprintf("%.2f to %.2f", slices.Min(values), slices.Max(values))
}
