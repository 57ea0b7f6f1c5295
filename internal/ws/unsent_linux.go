package ws

import (
	"net"
	"syscall"
)

// TCP_NOTSENT_LOWAT (tcp(7)) and how much the kernel may hold that it has not sent.
// Its send buffer grows to megabytes: a client that reads 2 KB/s would be minutes
// behind what counts as written, and one that does not read at all would cost as
// much. What is on its way is not limited, so a fast client is no slower.
const (
	tcpNotSentLowat = 25
	maxUnsent       = 32 << 10
)

// limitUnsent is best effort: without it slow clients take more memory.
func limitUnsent(c net.Conn) {
	for {
		if inner, ok := c.(interface{ NetConn() net.Conn }); ok {
			c = inner.NetConn()
			continue
		}
		break
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, maxUnsent)
	})
}
