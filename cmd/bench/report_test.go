package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"restante/internal/checker"
)

// sampleResults are runs with round figures: the gateway twice as fast as the
// floor.
func sampleResults() *results {
	run := func(mode string, rate float64, change func(*figures)) *figures {
		f := &figures{Mode: mode, Target: "restante", Rate: rate, Delivery: &spread{P50: 1000 / rate, P99: 5000 / rate}, CPU: &cpu{40, 20, 60}}
		if change != nil {
			change(f)
		}
		return f
	}
	here := &machine{Commit: "abc"}
	pair := func(mode string, gateway, floor float64) *trialRuns {
		return &trialRuns{Command: "bench " + mode, Machine: here, Gateway: []*figures{run(mode, gateway, nil)}, Floor: []*figures{run(mode, floor, nil)}}
	}
	one := func(mode string, change func(*figures)) *trialRuns {
		return &trialRuns{Command: "bench " + mode, Machine: here, Gateway: []*figures{run(mode, 1000, change)}}
	}
	used := func(cpu float64) *trialRuns {
		return one("throughput", func(f *figures) { f.CPU.Both = cpu })
	}
	var samples []soakSample
	for i := range 12 {
		samples = append(samples, soakSample{Seconds: float64(10 * i), CPU: &cpu{30, 20, 50 + float64(i)}, Memory: 50 << 20,
			Tables: []tableSize{{Name: "events", Bytes: int64(i) << 20, Dead: 1000}}})
	}
	return &results{
		Runs: map[string]*trialRuns{
			"64 publishers": pair("throughput", 20_000, 10_000),
			"16 publishers": pair("throughput", 9_000, 10_000),
			"groups":        pair("batch", 70_000, 30_000),
			"500/s":         pair("latency", 1000, 1000),
			"500/s across":  one("latency", nil),
			"drain":         pair("drain", 100_000, 50_000),
			"storm": one("storm", func(f *figures) {
				f.Storm, f.Reconnects = &stormed{Clients: 5, FirstSeconds: 1, DeliveredSeconds: 12}, 5
			}),
			"idle": one("idle", func(f *figures) {
				f.Idle = &idled{Connections: 1000, BytesEach: 10 << 10, GoroutinesEach: 1, With: still{WAL: 900, Server: 0.4, KnownCPU: true}, Without: still{WAL: 850}}
			}),
			"offline": one("offline", func(f *figures) {
				f.Offline = &offlined{Before: phase{Rate: 100, Memory: 100}, After: phase{Rate: 95, Memory: 120}, FetchJobs: 3}
			}),
			"3000/s 100 users": used(50), "3000/s 1000 users": used(60), "2 replicas": used(62), "3000/s": used(60), "3000/s 2 replicas": used(62), "10M events": used(60),
			"soak": one("soak", func(f *figures) { f.Soak = samples }),
		},
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	r := sampleResults()
	r.judge()
	met := map[string]bool{}
	for _, b := range r.Bars {
		met[b.Number+" "+b.What] = b.Met
	}
	for what, want := range map[string]bool{
		"1 one message per POST, 64 publishers":                                                                true,
		"1 one message per POST, 16 publishers":                                                                false,
		"2 100 messages per POST":                                                                              true,
		"3 POST to client at 500/s, p50":                                                                       true,
		"4 100 users come back to 1,000 messages each: until all are received":                                 true,
		"4 a replica with 5 users dies: until 0 pending messages are delivered":                                false,
		"5 an idle connection of 1000: memory":                                                                 true,
		"6 publish rate with 0 offline users, to that without":                                                 true,
		"6 memory of the server with 0 offline users, to that without":                                         false,
		"7 1000 idle connections: write-ahead log they cause (900 in all)":                                     true,
		"8 CPU per message, 100 to 1000 users, all of them connected, at 3,000 messages/s: the largest change": false,
		"8 CPU per message, 1 to 2 replicas on this machine, at 3,000 messages/s: the largest change":          true,
		"8 CPU per message, 0 to 10000000 events in the log: the largest change":                               true,
		"8 CPU per message over 0 minutes, last quarter to first":                                              false,
		"8 … tables and indexes, last quarter to second":                                                       false,
		"8 … dead rows at most (1000), last quarter to second":                                                 true,
		"3 through another replica at 500/s, p50":                                                              true,
	} {
		if got, judged := met[what]; !judged || got != want {
			t.Errorf("%q: met %v, judged %v; want %v", what, got, judged, want)
		}
	}
	if b := r.Bars[0]; b.Ratio != 2 || b.Floor != 10_000 {
		t.Errorf("first bar %+v", b)
	}
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	r.Runs["64 publishers"].Floor[0].Reconnects = 3
	r.judge()
	if _, _, _, met := r.Bars[0].cells(); r.Bars[0].Met || met != "not valid: restante: 3 lost connections" {
		t.Errorf("a run that lost connections: %q", met)
	}
	r.Runs["drain"].Failures = []string{"round 1, floor: no disk"}
	if err := r.verdict(); !errors.Is(err, errFailed) || r.failures()[0] != "drain, round 1, floor: no disk" {
		t.Errorf("verdict with a failure: %v", err)
	}
	r.Runs["drain"].Floor[0].Verdict = checker.Report{Count: 1}
	if err := r.verdict(); !errors.Is(err, errViolated) {
		t.Errorf("verdict with a violation: %v", err)
	}
}

func TestTrouble(t *testing.T) {
	t.Parallel()
	f := &figures{Refused: 1, Reconnects: 5, Late: 7, Unsettled: 2, Storm: &stormed{Clients: 5}}
	if got, want := f.trouble(), "1 posts refused, 7 messages due and not posted at the end, 2 users whose acknowledgements did not get to the database"; got != want {
		t.Errorf("trouble %q, want %q", got, want)
	}
	if got := (&figures{}).trouble(); got != "" {
		t.Errorf("trouble %q", got)
	}
}

// TestUnknown judges runs of a system that tells neither memory nor CPU: those
// bars are left out, and what remains can be written.
func TestUnknown(t *testing.T) {
	t.Parallel()
	r := sampleResults()
	for _, runs := range r.Runs {
		for _, f := range runs.runs() {
			f.CPU = nil
			for i := range f.Soak {
				f.Soak[i].CPU, f.Soak[i].Memory = nil, 0
			}
		}
	}
	r.first("idle").Idle = &idled{Connections: 1000}
	r.first("offline").Offline = &offlined{}
	r.judge()
	for _, b := range r.Bars {
		if strings.Contains(b.What, "CPU") || strings.Contains(b.What, "memory") {
			t.Errorf("judged: %+v", b)
		}
	}
	if err := save(filepath.Join(t.TempDir(), "figures.json"), r); err != nil {
		t.Error(err)
	}
	for _, p := range r.plots() {
		if err := wellFormed(string(p.chart.draw())); err != nil {
			t.Errorf("%s: %v", p.file, err)
		}
	}
}

// TestRounds lets a run of one round fail: the others keep their partners, the
// failure is noted, and what was measured before is still there when the file is
// read again.
func TestRounds(t *testing.T) {
	t.Parallel()
	at := func(rate float64) *figures { return &figures{Mode: "throughput", Rate: rate} }
	if got := ratios([]*figures{at(1), nil, at(4)}, []*figures{at(2), at(9), at(4)}, rateMetric); !slices.Equal(got, []float64{2, 1}) {
		t.Errorf("ratios %v", got)
	}
	r := sampleResults()
	m, _ := findMode("throughput")
	o := commonDefaults(m)
	o.urls = "nowhere"
	for round := range 2 {
		r.Runs["64 publishers"].add(t.Context(), m, o, round, true, io.Discard)
	}
	if runs := r.Runs["64 publishers"]; len(runs.Failures) != 4 || len(runs.Gateway) != 3 || len(runs.Floor) != 3 || len(runs.runs()) != 2 {
		t.Errorf("%+v", runs)
	}
	dir := t.TempDir()
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	again, err := loadResults(dir)
	if err != nil || len(again.Runs) != len(r.Runs) || again.Runs["64 publishers"].Gateway[1] != nil || again.Bars[0].Ratio != 2 {
		t.Errorf("read again: %v, %+v", err, again)
	}
	if none, err := loadResults(t.TempDir()); err != nil || len(none.Runs) != 0 {
		t.Errorf("without a file: %v, %v", none, err)
	}
}

// TestReport writes tables and plots twice: the second time replaces the first.
func TestReport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	page := filepath.Join(dir, "BENCHMARKS.md")
	if err := errors.Join(
		os.Mkdir(filepath.Join(dir, "bench"), 0o755),
		os.WriteFile(page, []byte("before\n"+reportBegin+"\nold\n"+reportEnd+"\nafter\n"), 0o644),
		save(filepath.Join(dir, "bench", "figures.json"), sampleResults()),
	); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for range 2 {
		var out strings.Builder
		if code := run(t.Context(), []string{"report", "-out", dir}, &out, &out); code != 0 {
			t.Fatalf("code %d: %s", code, out.String())
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	if texts[0] != texts[1] {
		t.Error("a second report differs from the first")
	}
	for _, want := range []string{"before\n", "\nafter\n", "| 2 | 100 messages per POST | 70000 messages/s | 30000 | 2.33 (2.33–2.33) | ≥ 60,000 | yes |", "commit abc", "| 1000 | 1000 | 60 | 1.20 |", "(bench/soak-cpu.svg)", "go run ./cmd/bench drain"} {
		if !strings.Contains(texts[0], want) {
			t.Errorf("no %q in\n%s", want, texts[0])
		}
	}
	if strings.Contains(texts[0], "old") {
		t.Error("the old figures are still there")
	}
	files, err := filepath.Glob(filepath.Join(dir, "bench", "*.svg"))
	if err != nil || len(files) != 9 {
		t.Errorf("plots %v, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := wellFormed(string(text)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	if err := os.WriteFile(page, []byte("no marks"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code := run(t.Context(), []string{"report", "-out", dir}, io.Discard, io.Discard); code != 1 {
		t.Errorf("a page without marks: code %d", code)
	}
}

func wellFormed(text string) error {
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") || strings.Contains(text, "%!") {
		return errors.New("not a number, or not formatted")
	}
	for d := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := d.Token(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// TestChartEdges draws what has no points, one point, or only zeros.
func TestChartEdges(t *testing.T) {
	t.Parallel()
	for _, c := range []*chart{
		{title: `<"&`},
		{title: "one", logX: true, series: []series{{"a", []point{{0, 5}}}}},
		{title: "zero", names: []string{"x"}, series: []series{{"a", []point{{0, 0}}}, {"b", nil}}},
	} {
		if err := wellFormed(string(c.draw())); err != nil {
			t.Errorf("%q: %v\n%s", c.title, err, c.draw())
		}
	}
	for least, want := range map[float64]float64{0: 1, 0.3: 0.5, 1: 1, 1.1: 2, 30: 50, 51: 100, 2000: 2000} {
		if got := niceStep(least); math.Abs(got-want) > want/1e6 {
			t.Errorf("niceStep(%v) = %v, want %v", least, got, want)
		}
	}
	for v, want := range map[float64]string{0: "0", 950: "950", 12_340: "12.34k", 2_500_000: "2.5M", 0.25: "0.25"} {
		if got := tick(v); got != want {
			t.Errorf("tick(%v) = %q, want %q", v, got, want)
		}
	}
}

// TestTrials parses the flags of every trial, and holds the plan to what the
// page says of it.
func TestTrials(t *testing.T) {
	t.Parallel()
	for long, most := range map[bool]time.Duration{false: 17*time.Minute + 30*time.Second, true: 70 * time.Minute} {
		if took, err := estimate(trials(long), 3); err != nil || took > most {
			t.Errorf("long %v: %v, %v", long, took, err)
		}
	}
	for _, a := range axes {
		for _, s := range a.steps {
			if _, err := chooseTrials(s.trial, true); err != nil {
				t.Error(err)
			}
		}
	}
	if chosen, err := chooseTrials("storm, 500/s across", false); err != nil || len(chosen) != 2 || chosen[0].name != "500/s across" {
		t.Error(chosen, err)
	}
	if chosen, err := chooseTrials("scale", false); err != nil || len(chosen) != len(scaleTrials()) {
		t.Error(chosen, err)
	}
	if _, err := chooseTrials("moon", false); err == nil {
		t.Error("an unknown run is not refused")
	}
	if code := run(t.Context(), []string{"bars", "-long", "-plan"}, io.Discard, io.Discard); code != 0 {
		t.Errorf("-plan: code %d", code)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	at := func(rate float64) *figures { return &figures{Mode: "throughput", Rate: rate} }
	c := &comparison{Mode: "throughput", A: "floor", B: "/x/after", RunsA: []*figures{at(100), at(50), at(200)}, RunsB: []*figures{at(150), at(100), at(200)}}
	c.compare()
	if len(c.Metrics) != 1 || c.Metrics[0].MedianA != 100 || c.Metrics[0].MedianB != 150 || c.Metrics[0].Ratio != 1.5 {
		t.Errorf("metrics %+v", c.Metrics)
	}
	var out strings.Builder
	if err := c.table(&out); err != nil || !strings.Contains(out.String(), "B: after") || !strings.Contains(out.String(), "1.50") {
		t.Errorf("table %v\n%s", err, out.String())
	}
	for _, args := range []string{"", "dance", "-repeats 0 throughput", "-a nowhere -b floor throughput", "-b floor storm", "throughput -users x", "throughput -url http://127.0.0.1:1 -database-url x -api-key-file k"} {
		if code := run(t.Context(), append([]string{"compare"}, strings.Fields(args)...), io.Discard, io.Discard); code != 2 {
			t.Errorf("compare %s: code %d, want 2", args, code)
		}
	}
}
