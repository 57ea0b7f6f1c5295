//go:build unix

package devstack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	stopFast      = syscall.SIGINT  // roll back, checkpoint, leave
	stopImmediate = syscall.SIGQUIT // leave as in a crash
)

// lockPoll is how often a taken lock is tried again. A blocking flock could not
// be given up when the context ends.
const lockPoll = 50 * time.Millisecond

// lockFile takes an exclusive lock on path, created if missing, and waits for
// it until ctx ends. The kernel drops it when this process dies.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	ticker := time.NewTicker(lockPoll)
	defer ticker.Stop()
	for {
		unlock, err := tryLockFile(path)
		if !errors.Is(err, ErrLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: %w", path, context.Cause(ctx))
		case <-ticker.C:
		}
	}
}

// tryLockFile is TryLock.
func tryLockFile(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case err == nil:
		return func() { file.Close() }, nil
	case errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR):
		file.Close()
		return nil, ErrLocked
	default:
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
}

// fileOwner returns the user id that owns a file.
func fileOwner(info fs.FileInfo) (uid int, ok bool) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}

// runAs makes cmd run as the given user, without any of our groups; nil leaves
// it as it is. The process gets a group of its own, so that a Ctrl-C at the
// terminal reaches us alone and we decide about the order of the end.
func runAs(cmd *exec.Cmd, user *osUser) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if user != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(user.uid), Gid: uint32(user.gid)}
	}
	endWithParent(cmd.SysProcAttr)
}
