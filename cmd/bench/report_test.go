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

	"restante/internal/checker"
)

// sampleResults are runs with round figures: the gateway twice as fast as the
// floor.
func sampleResults() *results {
	run := func(mode string, rate float64, change func(*figures)) *figures {
		f := &figures{Mode: mode, Rate: rate, Delivery: &spread{P50: 1000 / rate, P99: 5000 / rate}, CPU: &cpu{40, 20, 60}, Settings: map[string]any{"users": 5}}
		if change != nil {
			change(f)
		}
		return f
	}
	pair := func(mode string, gateway, floor float64) *trialRuns {
		return &trialRuns{Command: "bench " + mode, Gateway: []*figures{run(mode, gateway, nil)}, Floor: []*figures{run(mode, floor, nil)}}
	}
	one := func(mode string, change func(*figures)) *trialRuns {
		return &trialRuns{Command: "bench " + mode, Gateway: []*figures{run(mode, 1000, change)}}
	}
	var samples []soakSample
	for i := range 12 {
		samples = append(samples, soakSample{Seconds: float64(10 * i), CPU: &cpu{30, 20, 50 + float64(i)}, Memory: 50 << 20,
			Tables: []tableSize{{Name: "events", Bytes: int64(i) << 20}}})
	}
	return &results{
		Runs: map[string]*trialRuns{
			"64 publishers": pair("throughput", 20_000, 10_000),
			"16 publishers": pair("throughput", 9_000, 10_000),
			"groups":        pair("batch", 70_000, 30_000),
			"500/s":         pair("latency", 1000, 1000),
			"500/s across":  one("latency", nil),
			"drain":         pair("drain", 100_000, 50_000),
			"storm":         one("storm", func(f *figures) { f.Storm = &stormed{FirstSeconds: 1, DeliveredSeconds: 12} }),
			"idle": one("idle", func(f *figures) {
				f.Idle = &idled{Connections: 1000, BytesEach: 10 << 10, GoroutinesEach: 1, ServerCorePercent: 0.4}
			}),
			"quiet": one("quiet", func(f *figures) { f.Quiet = &quieted{WALBytesPerSecond: 900, WALBytesWithout: 850} }),
			"offline": one("offline", func(f *figures) {
				f.Offline = &offlined{Before: phase{Rate: 100, Memory: 100}, After: phase{Rate: 95, Memory: 120}, FetchJobs: 3}
			}),
			"soak": one("soak", func(f *figures) { f.Soak = samples }),
		},
		Scale: &scaled{Points: []*scalePoint{
			{Axis: "users", Value: 100, CPU: 50, Ratio: 1}, {Axis: "users", Value: 1000, CPU: 60, Ratio: 1.2},
			{Axis: "replicas", Value: 1, CPU: 50, Ratio: 1}, {Axis: "events", Value: 0, CPU: 50, Ratio: 1},
		}},
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
		"1 one message per POST, 64 publishers":                                 true,
		"1 one message per POST, 16 publishers":                                 false,
		"2 100 messages per POST":                                               true,
		"3 POST to client at 500/s, p50":                                        true,
		"4 100 users come back to 1,000 messages each":                          true,
		"4 a replica with 5 users dies: until 0 pending messages are delivered": false,
		"5 an idle connection of 1000: memory":                                  true,
		"6 publish rate with 0 offline users, to that without":                  true,
		"6 … memory of the server, to that without":                             false,
		"7 0 idle connections: write-ahead log they cause":                      true,
		"8 CPU per message, up to 1000 users: the largest change":               false,
		"8 CPU per message over 0 minutes, last quarter to first":               false,
		"8 CPU per message, up to 0 events: the largest change":                 true,
		"3 through another replica at 500/s, p50":                               true,
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
	r.Runs["drain"].Floor[0].Verdict = checker.Report{Count: 1}
	if err := r.verdict(); !errors.Is(err, errViolated) {
		t.Errorf("verdict with a violation: %v", err)
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
	for _, want := range []string{"before\n", "\nafter\n", "| 2 | 100 messages per POST | 70000 messages/s | 30000 | 2.33 | ≥ 60,000 | yes |", "(bench/soak-cpu.svg)", "go run ./cmd/bench drain"} {
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

// TestTrials parses the flags of every trial.
func TestTrials(t *testing.T) {
	t.Parallel()
	for _, trial := range slices.Concat(trials, longTrials) {
		if _, _, err := trial.options(options{}); err != nil {
			t.Errorf("%s: %v", trial.name, err)
		}
	}
	if _, err := chooseTrials("storm, 500/s across", false); err != nil {
		t.Error(err)
	}
	if _, err := chooseTrials("moon", false); err == nil {
		t.Error("an unknown run is not refused")
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
