package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"strconv"
	"time"
)

// poster is one HTTP/1.1 keep-alive connection that posts one request after the
// other. It understands what Go's server answers to small requests: a status
// line, headers, a body with Content-Length or in chunks.
type poster struct {
	addr    string
	conn    net.Conn // nil until the first post, and after a failure
	in      *bufio.Reader
	request []byte // rendered by the caller; reused
	body    []byte // of the last answer; reused
}

const (
	postTimeout = 30 * time.Second
	maxAnswer   = 1 << 20
)

// post writes p.request and reads the answer. Body is valid until the next
// call. After an error the connection is gone, the outcome is unknown, and the
// next post dials anew.
func (p *poster) post() (status int, body []byte, err error) {
	if p.conn == nil {
		conn, err := net.DialTimeout("tcp", p.addr, dialTimeout)
		if err != nil {
			return 0, nil, err
		}
		p.conn, p.in = conn, bufio.NewReaderSize(conn, 4<<10)
	}
	status, err = p.exchange()
	if err != nil {
		p.close()
		return 0, nil, err
	}
	return status, p.body, nil
}

func (p *poster) close() {
	if p.conn != nil {
		p.conn.Close()
		p.conn = nil
	}
}

func (p *poster) exchange() (status int, err error) {
	if err := p.conn.SetDeadline(time.Now().Add(postTimeout)); err != nil {
		return 0, err
	}
	if _, err := p.conn.Write(p.request); err != nil {
		return 0, err
	}
	line, err := p.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < 13 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, fmt.Errorf("not an answer: %.40q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, fmt.Errorf("not an answer: %.40q", line)
	}
	size, chunked, last := -1, false, false
	for {
		if line, err = p.in.ReadSlice('\n'); err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if size, err = strconv.Atoi(string(value)); err != nil {
				return 0, fmt.Errorf("Content-Length %q", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")):
			last = bytes.EqualFold(value, []byte("close"))
		}
	}
	if err := p.readBody(size, chunked); err != nil {
		return 0, err
	}
	if last {
		p.close()
	}
	return status, nil
}

func (p *poster) readBody(size int, chunked bool) error {
	if chunked {
		body := bytes.NewBuffer(p.body[:0])
		if _, err := body.ReadFrom(io.LimitReader(httputil.NewChunkedReader(p.in), maxAnswer)); err != nil {
			return err
		}
		p.body = body.Bytes()
		_, err := p.in.ReadSlice('\n') // the line that ends the last chunk
		return err
	}
	if size < 0 || size > maxAnswer {
		return errors.New("an answer without a usable Content-Length")
	}
	if cap(p.body) < size {
		p.body = make([]byte, size)
	}
	p.body = p.body[:size]
	_, err := io.ReadFull(p.in, p.body)
	return err
}
