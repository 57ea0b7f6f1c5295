package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"restante/internal/testdb"
)

// patience is how long anything may take that does happen in the end. It is
// spent only by tests that fail.
const patience = 60 * time.Second

// binDir is where TestMain puts the binaries: testing has no other way to hand a
// value from there to the tests.
var binDir string

// places bounds how many tests run their processes at the same time: a machine
// with many cores still has only one shared test database.
var places = make(chan struct{}, 3)

func TestMain(m *testing.M) {
	if url := os.Getenv(floodEnv); url != "" {
		if err := floods(url); err != nil {
			fmt.Fprintln(os.Stderr, "flood:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "restante-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	binDir = dir
	// Without version control's stamp: the sources may be a copy, or belong to
	// another user, and then git refuses.
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir, "./cmd/server", "./cmd/msg", "./cmd/migrate", "./cmd/sample")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: build the binaries: %v\n%s", err, out)
		return 1
	}
	return testdb.Run(m)
}

// lookAtSources makes go test's cache depend on what the binaries are built
// from: it knows the packages that a test imports and the files that a test looks
// at (only once m.Run has begun), but not what children do.
var lookAtSources = sync.OnceValue(func() error {
	for _, tree := range []string{"cmd", "internal", "migrations", "go.mod", "go.sum"} {
		err := filepath.WalkDir(filepath.Join("..", "..", tree), func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			_, err = os.Stat(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // an editor's temporary file
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
})

// parallel lets a test run beside others, as far as there is room.
func parallel(t *testing.T) {
	t.Helper()
	t.Parallel()
	places <- struct{}{}
	t.Cleanup(func() { <-places })
}

// eventually polls until check is true.
func eventually(t testing.TB, what string, check func() bool) {
	t.Helper()
	poll(t, 20*time.Millisecond, what, check)
}

func poll(t testing.TB, every time.Duration, what string, check func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
