package e2e

import "syscall"

// childAttributes lets the kernel stop a child when the tests are killed, and
// keeps the terminal's Ctrl-C from it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
