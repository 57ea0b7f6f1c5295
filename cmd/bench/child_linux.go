package main

import "syscall"

// childAttributes lets the kernel stop a child when bench is killed, and keeps
// the terminal's Ctrl-C from it: bench stops its children in order.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
