package main

import (
	"os"
	"syscall"
)

// narrow gives a socket so small a buffer and segments that the window of a
// session does not fit into loopback's buffers.
func narrow(_, _ string, raw syscall.RawConn) (err error) {
	if control := raw.Control(func(fd uintptr) {
		if err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096); err == nil {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400)
		}
	}); control != nil {
		return control
	}
	return err
}

// freeze stops a process where it is; thaw lets it go on.
func freeze(p *os.Process) error { return p.Signal(syscall.SIGSTOP) }
func thaw(p *os.Process) error   { return p.Signal(syscall.SIGCONT) }
