//go:build !linux

package main

import (
	"errors"
	"os"
	"syscall"
)

var errLinuxOnly = errors.New("this trouble can be made on Linux only")

func narrow(_, _ string, _ syscall.RawConn) error { return errLinuxOnly }

func freeze(*os.Process) error { return errLinuxOnly }
func thaw(*os.Process) error   { return errLinuxOnly }
