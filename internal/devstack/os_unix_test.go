//go:build unix

package devstack_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"restante/internal/devstack"
)

func giveToOwnerOf(path, model string) error {
	info, err := os.Stat(model)
	if err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	return os.Chown(path, int(stat.Uid), int(stat.Gid))
}

func TestTryLock(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := devstack.TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := devstack.TryLock(path); !errors.Is(err, devstack.ErrLocked) {
		t.Errorf("second lock: %v, want ErrLocked", err)
	}
	unlock()
	unlock, err = devstack.TryLock(path)
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	unlock()
}
