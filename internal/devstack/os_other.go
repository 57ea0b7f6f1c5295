//go:build !unix

package devstack

import (
	"context"
	"errors"
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

var errUnsupported = errors.New("a private PostgreSQL is not supported on this system: set DATABASE_URL")

func lockFile(context.Context, string) (func(), error) { return nil, errUnsupported }

func tryLockFile(string) (func(), error) { return nil, errUnsupported }

func fileOwner(fs.FileInfo) (int, bool) { return 0, false }

func runAs(*exec.Cmd, *osUser) {}

func workingIn(string) (working, known bool) { return false, false }
