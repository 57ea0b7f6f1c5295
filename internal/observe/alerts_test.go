package observe

import (
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"restante/internal/testdb"
)

var prometheusDir = filepath.Join("..", "..", "deploy", "prometheus")

// alertNames returns the names of the alerts, in the file's order.
func alertNames(t testing.TB) []string {
	t.Helper()
	var names []string
	for _, found := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(readFile(t, "deploy", "prometheus", "alerts.yml"), -1) {
		names = append(names, found[1])
	}
	if len(names) == 0 {
		t.Fatal("there are no alerts")
	}
	return names
}

func promtoolSays(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(promtool(t), args...)
	cmd.Dir = prometheusDir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestPrometheusConfiguration: rules and templates are understood, too.
func TestPrometheusConfiguration(t *testing.T) {
	t.Parallel()
	promtoolSays(t, "check", "config", "prometheus.yml")
}

// TestAlertCases plays alerts_test.yml, in which every alert fires and clears.
func TestAlertCases(t *testing.T) {
	t.Parallel()
	promtoolSays(t, "test", "rules", "alerts_test.yml")

	fires, clears := map[string]bool{}, map[string]bool{}
	check := regexp.MustCompile(`alertname="(\w+)", alertstate="firing"\}\)'(, exp_samples: \[\{labels: '\{\}', value: 1\}\])?\}`)
	for line := range strings.Lines(readFile(t, "deploy", "prometheus", "alerts_test.yml")) {
		switch found := check.FindStringSubmatch(line); {
		case found == nil:
			if strings.Contains(line, "eval_time") {
				t.Errorf("not a check of this file's form: %s", line)
			}
		case found[2] != "":
			fires[found[1]] = true
		case fires[found[1]]:
			clears[found[1]] = true
		}
	}
	for _, name := range alertNames(t) {
		if !fires[name] || !clears[name] {
			t.Errorf("%s: a case in which it fires %v, and then clears %v", name, fires[name], clears[name])
		}
	}
}

// TestRunbook: every alert has an entry, says which, and no entry is about an
// alert that is gone. An entry answers three questions.
func TestRunbook(t *testing.T) {
	t.Parallel()
	entries := map[string]string{}
	for _, part := range strings.Split(readFile(t, "deploy", "RUNBOOK.md"), "\n## ")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		entries[name] = text
	}
	links := map[string]bool{}
	for _, found := range regexp.MustCompile(`runbook: deploy/RUNBOOK\.md#(\S+)`).FindAllStringSubmatch(readFile(t, "deploy", "prometheus", "alerts.yml"), -1) {
		links[found[1]] = true
	}
	names := alertNames(t)
	if len(links) != len(names) {
		t.Errorf("%d alerts link to %d entries", len(names), len(links))
	}
	for _, name := range names {
		text, ok := entries[name]
		if !ok || !links[strings.ToLower(name)] {
			t.Errorf("%s has an entry: %v, a link to it: %v", name, ok, links[strings.ToLower(name)])
			continue
		}
		for _, question := range []string{"**What it means.** ", "**Look at** ", "**Do.** "} {
			if !strings.Contains(text, question) {
				t.Errorf("the entry of %s does not say %q", name, question)
			}
		}
	}
	for name := range maps.Keys(entries) {
		if strings.HasPrefix(name, "Restante") && !slices.Contains(names, name) {
			t.Errorf("the runbook has an entry for %s, which is no alert", name)
		}
	}
}

// TestRunbookStatements runs what one would copy at three in the morning.
func TestRunbookStatements(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(readFile(t, "deploy", "RUNBOOK.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("the runbook has no statements")
	}
	for _, block := range blocks {
		for statement := range strings.SplitSeq(strings.TrimSpace(block[1]), ";\n") {
			if _, err := db.Pool.Exec(t.Context(), strings.TrimSuffix(statement, ";")); err != nil {
				t.Errorf("%s: %v", statement, err)
			}
		}
	}
}

// TestRunbookNamesWhatExists: panels and links to entries.
func TestRunbookNamesWhatExists(t *testing.T) {
	t.Parallel()
	text := readFile(t, "deploy", "RUNBOOK.md")
	titles := map[string]bool{"Restante": true}
	for _, r := range rows() {
		for _, p := range r.panels {
			titles[strings.TrimSuffix(p.title, ", 99 %")] = true
		}
	}
	for _, found := range regexp.MustCompile(`(?s)[^*]\*([A-Z][^*]+)\*[^*]`).FindAllStringSubmatch(text, -1) {
		if name := strings.Join(strings.Fields(found[1]), " "); !titles[name] {
			t.Errorf("the runbook sends its reader to a panel %q, which does not exist", name)
		}
	}
	for _, found := range regexp.MustCompile(`\]\(#(\w+)\)`).FindAllStringSubmatch(text, -1) {
		if !regexp.MustCompile(`(?mi)^## ` + found[1] + `$`).MatchString(text) {
			t.Errorf("the runbook links to #%s, which does not exist", found[1])
		}
	}
}
