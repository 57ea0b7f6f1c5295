//go:build unix

package main

import "syscall"

// openFiles is how many files this process may have open. Go has raised the soft
// limit to the hard one before main.
func openFiles() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || uint64(limit.Cur) > unlimited {
		return unlimited
	}
	return int(limit.Cur)
}
