package e2e

import (
	"bufio"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"restante/internal/testdb"
)

// family is one metric of /metrics.
type family struct {
	kind, help string
	labels     map[string]struct{}
}

var labelName = regexp.MustCompile(`(?:^|,)([a-z_]+)="(?:[^"\\]|\\.)*"`)

// families reads the metrics of our own prefix.
func families(t *testing.T, exposition string) map[string]*family {
	t.Helper()
	all := map[string]*family{}
	for lines := bufio.NewScanner(strings.NewReader(exposition)); lines.Scan(); {
		line := lines.Text()
		words := strings.SplitN(line, " ", 4)
		if len(words) == 4 && words[0] == "#" && strings.HasPrefix(words[2], "restante_") {
			f := all[words[2]]
			if f == nil {
				f = &family{labels: map[string]struct{}{}}
				all[words[2]] = f
			}
			if words[1] == "HELP" {
				f.help = words[3]
			} else {
				f.kind = words[3]
			}
			continue
		}
		series, labels, labelled := strings.Cut(line, "{")
		if !labelled || !strings.HasPrefix(line, "restante_") {
			continue
		}
		name := series
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if f := all[strings.TrimSuffix(series, suffix)]; f != nil && f.kind == "histogram" {
				name = strings.TrimSuffix(series, suffix)
			}
		}
		for _, label := range labelName.FindAllStringSubmatch(labels, -1) {
			if all[name] == nil {
				t.Fatalf("a sample without a type: %s", line)
			}
			if label[1] != "le" {
				all[name].labels[label[1]] = struct{}{}
			}
		}
	}
	return all
}

// TestMetricNames holds the names, types and labels of the metrics: dashboards
// and alerts of operators depend on them. UPDATE_GOLDEN=1 writes the file anew.
func TestMetricNames(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s := w.server()
	// Most series exist from the start; these need somebody to come and go, one
	// who is refused, and the first census.
	gone := w.connect(s, "ann")
	(&publisher{w: w, number: 1}).posts(s, "ann", 1)
	w.verdict()
	gone.drop()
	upgrade(w, s, "/ws", "").problem(t, 401)
	eventually(t, "the metrics know of it", func() bool {
		return s.metric("restante_sessions_closed_total", "") == 1 && s.metric("restante_census_age_seconds", "") > 0
	})

	exposition := s.exposition()
	all := families(t, exposition)
	var golden strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		golden.WriteString(name + " " + f.kind)
		for _, label := range slices.Sorted(maps.Keys(f.labels)) {
			golden.WriteString(" " + label)
		}
		golden.WriteString("\n")
		wellNamed(t, name, f)
	}
	path := filepath.Join("testdata", "metrics.txt")
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(golden.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if golden.String() != string(want) {
		t.Errorf("the metrics have changed; if that is meant, UPDATE_GOLDEN=1 writes testdata/metrics.txt anew. They are now:\n%s", golden.String())
	}
	problems, err := promlint.New(strings.NewReader(exposition)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "restante_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

var otherUnits = regexp.MustCompile(`_(ms|millis|milliseconds|us|microseconds|ns|nanoseconds|minutes|hours|days|kb|mb|kib|mib|kilobytes|megabytes|percent|ratio)(_|$)`)

// wellNamed checks what every metric's name has to tell.
func wellNamed(t *testing.T, name string, f *family) {
	t.Helper()
	if len(f.help) < 10 || !strings.HasSuffix(f.help, ".") {
		t.Errorf("%s has no sentence of help: %q", name, f.help)
	}
	if (f.kind == "counter") != strings.HasSuffix(name, "_total") {
		t.Errorf("%s is a %s", name, f.kind)
	}
	if otherUnits.MatchString(name) {
		t.Errorf("%s is not in a base unit", name)
	}
	if unit := name[strings.LastIndexByte(name, '_')+1:]; f.kind == "histogram" && !slices.Contains([]string{"seconds", "bytes", "messages"}, unit) {
		t.Errorf("%s is a histogram of what? Seconds, bytes or messages", name)
	}
	if !slices.Contains([]string{"counter", "gauge", "histogram"}, f.kind) {
		t.Errorf("%s is a %s", name, f.kind)
	}
}
