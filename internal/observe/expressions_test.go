package observe

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// variables stands in for Grafana. The interval is four scrapes at least; on the
// clock of TestLive it is five seconds.
var variables = strings.NewReplacer("$__rate_interval", "5s", "$replica", ".*")

// dashboardQueries returns the expressions that stand in the dashboard's file, by
// the panel they belong to.
func dashboardQueries(t testing.TB) map[string][]string {
	t.Helper()
	var file struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Name, Expr string } }
	}
	if err := json.Unmarshal([]byte(readFile(t, "deploy", "grafana", "dashboards", "restante.json")), &file); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, p := range file.Panels {
		for _, target := range p.Targets {
			name := p.Title + " (" + p.Type + ")"
			all[name] = append(all[name], variables.Replace(target.Expr))
		}
	}
	for _, a := range file.Annotations.List {
		all[a.Name] = append(all[a.Name], variables.Replace(a.Expr))
	}
	return all
}

func parse(t testing.TB, expr string) parser.Expr {
	t.Helper()
	parsed, err := parser.NewParser(parser.Options{}).ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", expr, err)
		return nil
	}
	return parsed
}

func TestDashboardParses(t *testing.T) {
	t.Parallel()
	for name, queries := range dashboardQueries(t) {
		for _, q := range queries {
			if strings.Contains(q, "$") {
				t.Errorf("%s: %s has a variable that nobody sets", name, q)
			}
			parse(t, q)
		}
	}
}

// demand is what an expression needs of a metric: labels, and some of their values.
type demand struct {
	labels map[string]bool
	values map[string]map[string]bool
}

// demands collects what an expression asks for, by metric.
func demands(expr parser.Expr, all map[string]demand) {
	parser.Inspect(expr, func(node parser.Node, path []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		d, known := all[selector.Name]
		if !known {
			d = demand{map[string]bool{}, map[string]map[string]bool{}}
			all[selector.Name] = d
		}
		for _, m := range selector.LabelMatchers {
			if m.Name == "__name__" {
				continue
			}
			d.labels[m.Name] = true
			for _, value := range literals(m) {
				if d.values[m.Name] == nil {
					d.values[m.Name] = map[string]bool{}
				}
				d.values[m.Name][value] = true
			}
		}
		for _, above := range path {
			if by, ok := above.(*parser.AggregateExpr); ok && !by.Without {
				for _, label := range by.Grouping {
					d.labels[label] = true
				}
			}
		}
		return nil
	})
}

// literals returns the values that a matcher names; a pattern names none.
func literals(m *labels.Matcher) []string {
	if m.Type == labels.MatchEqual || m.Type == labels.MatchNotEqual {
		return []string{m.Value}
	}
	var all []string
	for value := range strings.SplitSeq(m.Value, "|") {
		if regexp.QuoteMeta(value) == value || strings.HasPrefix(value, "/") {
			all = append(all, value)
		}
	}
	return all
}

// check compares what is asked for with what the run had. A value that has not
// occurred in it must at least stand in the source: "no_ack" is rare.
func (d demand) check(t *testing.T, metric string, have map[string]map[string]bool, source string) {
	t.Helper()
	if have == nil {
		t.Errorf("no replica has a metric %s", metric)
		return
	}
	for label := range d.labels {
		if have[label] == nil {
			t.Errorf("%s has no label %s; it has %v", metric, label, slices.Sorted(maps.Keys(have)))
		}
	}
	for label, values := range d.values {
		for value := range values {
			if !have[label][value] && !strings.Contains(source, `"`+value+`"`) {
				t.Errorf("%s never has %s=%q; it has %v", metric, label, value, slices.Sorted(maps.Keys(have[label])))
			}
		}
	}
}

// goSource is the text of all packages, without tests.
func goSource(t testing.TB) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		all.Write(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
