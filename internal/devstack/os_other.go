//go:build !unix

package devstack

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
)

// A private PostgreSQL needs unix sockets, user ids and file locks: elsewhere
// set DATABASE_URL.

var (
	stopFast      = os.Interrupt
	stopImmediate = os.Kill
)

func lockFile(context.Context, string) (func(), error) { return nil, errUnsupported }

func tryLockFile(string) (func(), error) { return nil, errUnsupported }

func fileOwner(fs.FileInfo) (int, bool) { return 0, false }

func runAs(*exec.Cmd, *osUser) {}

func workingIn(string) (working, known bool) { return false, false }
