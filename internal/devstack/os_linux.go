package devstack

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// endWithParent has the kernel stop the process, in order, when the thread that
// started it ends: with this process, whatever ends it, or with the goroutine
// if that is locked to its thread.
func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = stopFast }

// workingIn reports whether any PostgreSQL process has dir as its working
// directory, as every process of a running one has its data directory. known is
// false when that cannot be told.
func workingIn(dir string) (working, known bool) {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, false
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false, false
	}
	seen := 0
	for _, entry := range entries {
		if _, err := strconv.Atoi(entry.Name()); err != nil {
			continue
		}
		// Other users' processes cannot be read, and cannot be ours.
		cwd, err := os.Readlink("/proc/" + entry.Name() + "/cwd")
		if err != nil {
			continue
		}
		seen++
		if cwd != real {
			continue
		}
		// A shell somebody left there does not count.
		if name, err := os.ReadFile("/proc/" + entry.Name() + "/comm"); err == nil && strings.HasPrefix(string(name), "postgres") {
			return true, true
		}
	}
	return false, seen > 0
}
