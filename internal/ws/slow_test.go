package ws_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"restante/internal/coretest"
	"restante/internal/ws"
)

// slowConn is a client's connection that reads at a rate. Loopback's segments of
// 64 KiB and the kernel's buffers would hide how slow it is.
type slowConn struct {
	net.Conn
	in   *bufio.Reader
	rate int // bytes/s
	tick *time.Ticker
	left int // bytes that may still be read in this tick
}

const slowTick = 10 * time.Millisecond

func (s *server) dialSlow(t *testing.T, user, headers string, rate int) *slowConn {
	t.Helper()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			if err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10); err == nil {
				err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	c, err := dialer.DialContext(t.Context(), "tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowConn{Conn: c, rate: rate, tick: time.NewTicker(slowTick)}
	t.Cleanup(func() { c.Close(); slow.tick.Stop() })
	slow.in = bufio.NewReaderSize(readerFunc(slow.read), 512)
	if _, err := io.WriteString(c, "GET /?user="+user+" HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+headers+"\r\n"); err != nil {
		t.Fatal(err)
	}
	if response, err := http.ReadResponse(slow.in, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(err, response)
	}
	return slow
}

// kernelBuffers leaves the server's send buffer to the kernel, which makes it as
// large as 4 MB.
func kernelBuffers(l net.Listener) net.Listener { return l }

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (c *slowConn) read(p []byte) (int, error) {
	per := max(1, int(float64(c.rate)*slowTick.Seconds()))
	for c.left <= 0 {
		<-c.tick.C
		c.left += per
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// next returns the next message as the client has it, confirmed as the mode does.
func (c *slowConn) next(v1 bool) (text string, err error) {
	for {
		op, payload, err := readFrame(c.in)
		if err != nil {
			return "", err
		}
		switch op {
		case opPing:
			if _, err := c.Write(masked(opPong, payload)); err != nil {
				return "", err
			}
			continue
		case opClose:
			return "", fmt.Errorf("closed with %d %s", binary.BigEndian.Uint16(payload), payload[2:])
		case opText:
		default:
			continue
		}
		if !v1 {
			return string(payload), nil
		}
		var f frame
		if err := json.Unmarshal(payload, &f); err != nil {
			return "", err
		}
		if f.Kind != "message" {
			continue
		}
		if _, err := c.Write(masked(opText, fmt.Appendf(nil, `{"kind":"ack","seq":%d}`, f.Seq))); err != nil {
			return "", err
		}
		if err := json.Unmarshal(f.Message, &text); err != nil {
			return "", err
		}
		return text, nil
	}
}

// Slow is not dead (I7): a client that takes in at least one message per ack
// timeout gets each message once, in one connection. RESTANTE_SLOW=full takes the
// real timeouts, and minutes.
func TestSlowClientGetsEverythingOnce(t *testing.T) {
	t.Parallel()
	type load struct{ rate, messages, size int }
	timeout, loads := 2*time.Second, map[string]load{
		"small": {rate: 20 << 10, messages: 200, size: 1000},   // 10 s
		"large": {rate: 120 << 10, messages: 20, size: 60_000}, // 10 s, half a second each
		"tiny":  {rate: 500, messages: 20, size: 50},           // a sixth of a second each, in restante.v1 half a second
		"huge":  {rate: 30 << 10, messages: 5, size: 64 << 10}, // longer than the timeout
	}
	if os.Getenv("RESTANTE_SLOW") == "full" {
		timeout = 30 * time.Second // and the real bar
		loads = map[string]load{
			"small": {rate: 2 << 10, messages: 200, size: 1000},
			"large": {rate: 20 << 10, messages: 100, size: 60_000},
			"15KBs": {rate: 15 << 10, messages: 500, size: 1000},
		}
	}
	s := serveOn(t, coretest.Options{DeliverDelay: time.Minute, AckTimeout: timeout}, kernelBuffers, func(cfg *ws.Config) { cfg.WriteTimeout = timeout })
	var clients sync.WaitGroup
	heads := map[string]int64{}
	for _, protocol := range []string{"", "restante.v1"} {
		for name, l := range loads {
			user := url.PathEscape(name + protocol)
			filler := strings.Repeat("x", l.size)
			var posted []string
			for i := range l.messages {
				posted = append(posted, fmt.Sprintf(`"%d:%s"`, i+1, filler))
			}
			s.post(t, user, posted...)
			heads[user] = int64(l.messages)
			headers := ""
			if protocol != "" {
				headers = "Sec-WebSocket-Protocol: " + protocol + "\r\n"
			}
			c := s.dialSlow(t, user, headers, l.rate)
			clients.Go(func() {
				start := time.Now()
				for i := range l.messages {
					text, err := c.next(protocol != "")
					if err != nil {
						t.Errorf("%s, after %d messages and %v: %v", user, i, time.Since(start), err)
						return
					}
					if want := fmt.Sprintf("%d:%s", i+1, filler); text != want {
						t.Errorf("%s, message %d: %.20q (%d bytes), want %.20q (%d bytes)", user, i+1, text, len(text), want, len(want))
						return
					}
				}
				go func() { _, _ = c.next(protocol != "") }() // the ping behind the last message
				t.Logf("%s: %d messages in %v", user, l.messages, time.Since(start).Round(time.Second))
			})
		}
	}
	clients.Wait()
	for user, seq := range heads {
		s.acked(t, user, seq)
	}
}
