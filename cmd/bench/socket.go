package main

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"
)

// socket is a WebSocket client of its own: it shares two cores with the server
// it measures, and a general library allocates for every message. It reads
// whole unfragmented frames, which is what servers of ours send.
type socket struct {
	conn    net.Conn
	in      *bufio.Reader
	payload []byte // of the last frame; reused
	out     []byte // frame being written; reused
}

const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10

	maxFrame     = 1 << 20
	readBuffer   = 16 << 10
	dialTimeout  = 10 * time.Second
	writeTimeout = 10 * time.Second
)

// closedError is the close frame the server sent.
type closedError struct {
	code   int
	reason string
}

func (e *closedError) Error() string {
	return fmt.Sprintf("closed by the server: %d %s", e.code, e.reason)
}

// dialSocket opens a WebSocket. Buffer is the size of its read buffer: idle
// connections by the thousand need a small one.
func dialSocket(ctx context.Context, dialer *net.Dialer, addr, path, subprotocol string, buffer int) (*socket, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	s := &socket{conn: conn, in: bufio.NewReaderSize(conn, buffer)}
	if err := s.handshake(addr, path, subprotocol); err != nil {
		conn.Close()
		return nil, fmt.Errorf("open a WebSocket: %w", err)
	}
	if !stop() {
		conn.Close()
		return nil, ctx.Err()
	}
	return s, nil
}

func (s *socket) handshake(addr, path, subprotocol string) error {
	var nonce [16]byte
	for i := range nonce {
		nonce[i] = byte(rand.Uint32())
	}
	key := base64.StdEncoding.EncodeToString(nonce[:])
	request := "GET " + path + " HTTP/1.1\r\nHost: " + addr + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + "\r\n"
	if subprotocol != "" {
		request += "Sec-WebSocket-Protocol: " + subprotocol + "\r\n"
	}
	if _, err := io.WriteString(s.conn, request+"\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(s.in, nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 512))
		return fmt.Errorf("answer %s: %s", answer.Status, text)
	}
	proof := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if answer.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(proof[:]) {
		return errors.New("the answer is not one to this handshake")
	}
	if got := answer.Header.Get("Sec-WebSocket-Protocol"); got != subprotocol {
		return fmt.Errorf("subprotocol %q instead of %q", got, subprotocol)
	}
	return nil
}

// next returns the next text message, valid until the next call. Pings are
// answered on the way.
func (s *socket) next() ([]byte, error) {
	for {
		op, err := s.frame()
		if err != nil {
			return nil, err
		}
		switch op {
		case opText:
			return s.payload, nil
		case opPing:
			if err := s.write(opPong, s.payload); err != nil {
				return nil, err
			}
		case opPong:
		case opClose:
			e := &closedError{code: 1005}
			if len(s.payload) >= 2 {
				e.code, e.reason = int(binary.BigEndian.Uint16(s.payload)), string(s.payload[2:])
			}
			s.write(opClose, s.payload[:min(2, len(s.payload))])
			return nil, e
		default:
			return nil, fmt.Errorf("unexpected frame of type %d", op)
		}
	}
}

// frame reads one frame into payload.
func (s *socket) frame() (op byte, err error) {
	var head [10]byte
	if _, err := io.ReadFull(s.in, head[:2]); err != nil {
		return 0, err
	}
	if head[0]&0xf0 != 0x80 {
		return 0, fmt.Errorf("fragmented or extended frame %#x", head[0])
	}
	if head[1]&0x80 != 0 {
		return 0, errors.New("the server masks its frames")
	}
	size := uint64(head[1])
	switch size {
	case 126:
		if _, err := io.ReadFull(s.in, head[2:4]); err != nil {
			return 0, err
		}
		size = uint64(binary.BigEndian.Uint16(head[2:4]))
	case 127:
		if _, err := io.ReadFull(s.in, head[2:10]); err != nil {
			return 0, err
		}
		size = binary.BigEndian.Uint64(head[2:10])
	}
	if size > maxFrame {
		return 0, fmt.Errorf("frame of %d bytes", size)
	}
	if uint64(cap(s.payload)) < size {
		s.payload = make([]byte, size, size+size/2)
	}
	s.payload = s.payload[:size]
	_, err = io.ReadFull(s.in, s.payload)
	return head[0] & 0x0f, err
}

// write sends one frame of at most 125 bytes, which is all a client of ours has
// to say. It must be called from the goroutine that reads.
func (s *socket) write(op byte, payload []byte) error {
	if len(payload) > 125 {
		return fmt.Errorf("frame of %d bytes", len(payload))
	}
	mask := rand.Uint32()
	s.out = append(s.out[:0], 0x80|op, 0x80|byte(len(payload)))
	s.out = binary.LittleEndian.AppendUint32(s.out, mask)
	for i, b := range payload {
		s.out = append(s.out, b^byte(mask>>(8*(i%4))))
	}
	if err := s.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := s.conn.Write(s.out)
	return err
}
