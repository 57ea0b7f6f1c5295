//go:build !linux

package ws

import "net"

// limitUnsent has no equivalent here.
func limitUnsent(net.Conn) {}
