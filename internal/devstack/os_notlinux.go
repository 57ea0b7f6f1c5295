//go:build unix && !linux

package devstack

import "syscall"

// endWithParent has no equivalent here: a PostgreSQL whose parent was killed
// lives on, and the next start attaches to it.
func endWithParent(*syscall.SysProcAttr) {}

// workingIn cannot be told portably; PostgreSQL's own check of its pid file
// decides.
func workingIn(string) (working, known bool) { return false, false }
