// Package systemd holds the unit of those without containers. systemd judges it here.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// worst is the most exposure that systemd may find in the unit, of 100: a service
// without sandboxing has 96.
const worst = "20"

// TestUnit lets systemd judge the unit, in a root directory where its programs are.
func TestUnit(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("restante.service")
	if err != nil {
		t.Fatal(err)
	}
	if out := verify(t, string(unit)); out != "" {
		t.Errorf("systemd-analyze verify says:\n%s", out)
	}
	if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold="+worst, "restante.service").CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v: %s", err, out)
	}
}

// TestUnitIsRead: what is wrong with a unit is told, or the test above proves nothing.
func TestUnitIsRead(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile("restante.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"StartLimitIntervalSec", "ExecStartPre", "MemoryDenyWriteExecute", "WantedBy"} {
		misspelt := strings.Replace(string(unit), "\n"+key+"=", "\nX"+key[1:]+"=", 1)
		if out := verify(t, misspelt); !strings.Contains(out, "X"+key[1:]) {
			t.Errorf("nobody minds a misspelt %s: %q", key, out)
		}
	}
}

// verify returns what systemd has against the unit. It says most of it as warnings,
// with exit code 0.
func verify(t *testing.T, unit string) string {
	t.Helper()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("there is no systemd-analyze here")
	}
	root := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range regexp.MustCompile(`(?m)^Exec\w+=(\S+)`).FindAllStringSubmatch(unit, -1) {
		write(program[1], "#!/bin/sh\n", 0o755)
	}
	write("etc/systemd/system/restante.service", unit, 0o644)
	// Of the distribution's units the directory needs those that ours waits for, and theirs.
	if err := os.CopyFS(filepath.Join(root, "usr/lib/systemd/system"), os.DirFS("/lib/systemd/system")); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "--root="+root, "restante.service").CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	return string(out)
}
