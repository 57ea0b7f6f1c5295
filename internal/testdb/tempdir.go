package testdb

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"restante/internal/devstack"
)

const tempPrefix = "restante-test-"

// staleAfter is how old an unlocked directory must be before it counts as left
// over: its maker may be about to lock it.
const staleAfter = time.Minute

// tempDir is a cluster's directory, locked as long as this process lives.
type tempDir struct {
	path   string
	unlock func()
}

// newTempDir makes a directory, and removes those of processes that were killed.
func newTempDir() (*tempDir, error) {
	removeStale()
	path, err := os.MkdirTemp("", tempPrefix)
	if err != nil {
		return nil, err
	}
	// As root the server runs as another user, who must be able to pass.
	if err := os.Chmod(path, 0o711); err != nil {
		return nil, err
	}
	unlock, err := devstack.TryLock(lockPath(path))
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &tempDir{path: path, unlock: unlock}, nil
}

func (d *tempDir) remove() error {
	err := os.RemoveAll(d.path)
	d.unlock()
	return err
}

func lockPath(dir string) string { return filepath.Join(dir, "owner.lock") }

// removeStale is best effort: what cannot be removed belongs to somebody else.
func removeStale() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*"))
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < staleAfter {
			continue
		}
		unlock, err := devstack.TryLock(lockPath(dir))
		if err != nil {
			continue
		}
		os.RemoveAll(dir)
		unlock()
	}
}
