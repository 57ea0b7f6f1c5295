package restante_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed is the architecture: who may import whom, of our own packages. Tests
// may import anything.
var allowed = map[string][]string{
	// The core. hub → events is its only edge: jobs asks for what it needs through
	// interfaces of its own, of events it knows types and names only.
	"internal/events":     {},
	"internal/hub":        {"internal/events"},
	"internal/jobs":       {"internal/events"},
	"internal/tokens":     {},
	"internal/database":   {},
	"internal/identity":   {"internal/events"},
	"internal/publishers": {},

	// The edge.
	"internal/accept":  {},
	"internal/origins": {},
	"internal/ws":      {"internal/events", "internal/hub", "internal/origins"},
	"internal/api":     {"internal/events", "internal/hub", "internal/identity", "internal/origins", "internal/publishers", "internal/tokens", "internal/ws"},

	// The sample application is a client of the gateway; it shares the check of ID
	// tokens with it.
	"internal/sample": {"internal/identity"},

	// Development and tests.
	"internal/devstack": {},
	"internal/testdb":   {"internal/devstack", "migrations"},
	"internal/coretest": {"internal/database", "internal/events", "internal/hub", "internal/jobs", "internal/tokens"},
	"internal/checker":  {},

	"migrations":         {},
	"internal/buildinfo": {},

	"cmd/server": {
		"internal/accept", "internal/api", "internal/buildinfo", "internal/database", "internal/events", "internal/hub", "internal/identity", "internal/jobs",
		"internal/origins", "internal/publishers", "internal/tokens", "internal/ws", "migrations",
		"internal/devstack", "internal/sample", // -dev only
	},
	"cmd/migrate": {"internal/buildinfo", "migrations"},
	"cmd/msg":     {"internal/buildinfo", "internal/publishers", "internal/tokens"},
	"cmd/sample":  {"internal/buildinfo", "internal/identity", "internal/sample"},
	"cmd/bench": {
		"cmd/bench/floor", "internal/checker", "internal/devstack", "internal/publishers", "internal/tokens", "migrations",
	},
	"cmd/bench/floor": {},

	// In the place of an identity provider, when deploy/compose.yaml is tested.
	"deploy/test/devissuer": {"internal/devstack"},
	"deploy/test":           {"internal/checker"},
}

func TestImportsFollowTheArchitecture(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}}", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		name := strings.TrimPrefix(fields[0], "restante/")
		if len(fields) == 1 {
			continue // tests only
		}
		may, known := allowed[name]
		if !known {
			t.Errorf("%s is not in the table: what may it import?", name)
			continue
		}
		for _, path := range fields[1:] {
			if own, ok := strings.CutPrefix(path, "restante/"); ok && !slices.Contains(may, own) {
				t.Errorf("%s imports %s, which the table does not allow", name, own)
			}
		}
		for _, path := range may {
			if !slices.Contains(fields[1:], "restante/"+path) {
				t.Errorf("the table lets %s import %s, which it does not", name, path)
			}
		}
	}
}
