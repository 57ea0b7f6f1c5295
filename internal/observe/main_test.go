package observe

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"restante/internal/testdb"
)

// patience is how long anything may take that does happen in the end. It is
// spent only by tests that fail.
const patience = 2 * time.Minute

// serverBinary is where TestMain puts the gateway: testing has no other way to
// hand a value from there to the tests.
var serverBinary string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "restante-observe-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "observe:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	serverBinary = filepath.Join(dir, "server")
	// Without version control's stamp: the sources may be a copy, or belong to
	// another user, and then git refuses.
	build := exec.Command("go", "build", "-buildvcs=false", "-o", serverBinary, "./cmd/server")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "observe: build the server: %v\n%s", err, out)
		return 1
	}
	return testdb.Run(m)
}

func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
