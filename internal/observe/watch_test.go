package observe

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// cause is something that goes wrong, and the alerts that tell of it.
type cause struct {
	what   string
	alerts []string
	begin  func() (end func())
}

// watch remembers which alerts have fired when they had to.
type watch struct {
	p     *prometheus
	fired map[string]bool
}

// fire waits until each has fired: they need not fire together.
func (w *watch) fire(t *testing.T, names ...string) {
	t.Helper()
	seen := map[string]bool{}
	defer func() { t.Logf("fired: %v", slices.Sorted(maps.Keys(seen))) }()
	eventually(t, "these fire: "+strings.Join(names, ", "), func() bool {
		maps.Copy(seen, w.p.firing())
		return !slices.ContainsFunc(names, func(name string) bool { return !seen[name] })
	})
	for _, name := range names {
		w.fired[name] = true
	}
}

// clear waits until none of them fires.
func (w *watch) clear(t *testing.T, names ...string) {
	t.Helper()
	eventually(t, "these clear: "+strings.Join(names, ", "), func() bool {
		firing := w.p.firing()
		return !slices.ContainsFunc(names, func(name string) bool { return firing[name] })
	})
}

// undergo begins causes, until all their alerts have fired, and ends them in
// reverse, until all have cleared.
func (w *watch) undergo(t *testing.T, causes ...cause) {
	t.Helper()
	var names []string
	var ends []func()
	for _, c := range causes {
		began := time.Now()
		names = append(names, c.alerts...)
		ends = append(ends, c.begin())
		t.Logf("%s, begun in %v: %v", c.what, time.Since(began).Round(time.Millisecond), c.alerts)
	}
	began := time.Now()
	w.fire(t, names...)
	t.Logf("all have fired within %v", time.Since(began).Round(time.Millisecond))
	for _, end := range slices.Backward(ends) {
		end()
	}
	w.clear(t, names...)
}
