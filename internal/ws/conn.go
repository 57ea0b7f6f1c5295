package ws

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Buffers of a connection: client frames are acks and control frames, and what
// the library writes are control frames of at most 127 bytes.
const (
	readBuffer  = 128
	writeBuffer = 128
)

// How a connection is written to.
const (
	// writeSize bounds one write.
	writeSize = 16 << 10
	// patience is how long a write may wait before the connection counts as full. A
	// client that is only busy makes room within milliseconds; what is held for one
	// that takes longer is dropped.
	patience = 50 * time.Millisecond
)

// errFull: the connection takes no more for now.
var errFull = errors.New("connection is full")

// hijacker gives the library a connection with small buffers. The request's own
// are freed with it.
type hijacker struct {
	http.ResponseWriter
	timeout time.Duration // of its writes
	conn    *conn         // what was hijacked
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
	limitUnsent(raw)
	h.conn = &conn{Conn: raw, early: early, timeout: h.timeout}
	return h.conn, bufio.NewReadWriter(bufio.NewReaderSize(h.conn, readBuffer), bufio.NewWriterSize(h.conn, writeBuffer)), nil
}

// conn is a network connection that is written by two: the library (control
// frames, the close) and the transport (everything else). Both write whole frames.
// What does not fit is kept, and written by a goroutine of its own (kept.go):
// nobody waits longer than patience, least of all the reader, which answers pings.
type conn struct {
	net.Conn
	timeout   time.Duration // for which a full connection may take nothing
	transport *transport    // set once the handshake is done; nothing is kept before
	early     []byte        // read before the hijack; the library's alone

	mu   sync.Mutex // guards kept; held while writing, for patience at most
	kept *kept      // what the connection did not take; nil when it takes everything
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

// Write writes a frame, or keeps it until there is room.
func (c *conn) Write(frame []byte) (int, error) {
	const control, closing = 0x8, 0x88
	return c.write(frame, frame[0]&control != 0 && frame[0] != closing)
}

// answer writes a frame that may be left out if the client does not read.
func (c *conn) answer(frame []byte) error {
	_, err := c.write(frame, true)
	return err
}

func (c *conn) write(frame []byte, mayDrop bool) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept != nil {
		if !mayDrop || c.kept.queued < maxQueued {
			c.kept.queue(frame)
		}
		return len(frame), nil
	}
	n, err := c.push(frame)
	if errors.Is(err, errFull) && c.transport != nil {
		c.keep(frame[n:])
		return len(frame), nil
	}
	return n, err
}

// push writes p and returns how much of it the connection took: all, or errFull.
// c.mu must be held.
func (c *conn) push(p []byte) (n int, err error) {
	wait := patience
	if c.transport == nil {
		wait = c.timeout
	}
	for n < len(p) {
		if err := c.SetWriteDeadline(time.Now().Add(wait)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(p[n:min(len(p), n+writeSize)])
		n += m
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return n, errFull
		} else if err != nil {
			return n, err
		}
	}
	return n, nil
}
