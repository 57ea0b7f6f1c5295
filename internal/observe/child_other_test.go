//go:build !linux

package observe

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
