package ws

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Buffers of a connection: client frames are acks and control frames, and what
// the library writes are control frames of at most 127 bytes.
const (
	readBuffer  = 128
	writeBuffer = 128
)

// hijacker gives the library a connection with small buffers. The request's own
// are freed with it.
type hijacker struct {
	http.ResponseWriter
	timeout time.Duration
	conn    *conn // what was hijacked
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	raw, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("hijack: %w", err)
	}
	early := make([]byte, rw.Reader.Buffered()) // a client may send before it has read our answer
	if _, err := rw.Reader.Read(early); len(early) > 0 && err != nil {
		raw.Close()
		return nil, nil, fmt.Errorf("hijack: %w", err)
	}
	h.conn = &conn{Conn: raw, early: early, timeout: h.timeout}
	return h.conn, bufio.NewReadWriter(bufio.NewReaderSize(h.conn, readBuffer), bufio.NewWriterSize(h.conn, writeBuffer)), nil
}

// conn is a network connection that is written by two: the library (control
// frames, the close) and the transport (everything else). Each Write is whole
// frames, so a lock around each is enough.
type conn struct {
	net.Conn
	timeout time.Duration // of one write
	early   []byte        // read before the hijack; the library's alone

	mu sync.Mutex // held while writing
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	c.early = nil
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
