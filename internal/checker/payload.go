package checker

import (
	"bytes"
	"strconv"
)

// A payload of the project's own tests is a JSON string that says who posted
// it, which of its messages it is, and when it was meant to be sent:
//
//	"p12 n345 t1732400000 ......"

const mark = `"p`

// AppendPayload appends such a payload to dst, padded to size bytes with the
// quotes (at least as many as it needs). Sent is any clock the reader shares.
func AppendPayload(dst []byte, publisher uint32, n uint64, sent int64, size int) []byte {
	start := len(dst)
	dst = append(dst, mark...)
	dst = strconv.AppendUint(dst, uint64(publisher), 10)
	dst = append(dst, " n"...)
	dst = strconv.AppendUint(dst, n, 10)
	dst = append(dst, " t"...)
	dst = strconv.AppendInt(dst, sent, 10)
	dst = append(dst, ' ')
	for len(dst)-start < size-1 {
		dst = append(dst, '.')
	}
	return append(dst, '"')
}

// Payload makes a payload of AppendPayload and the Message that describes it.
func (c *Checker) Payload(publisher uint32, n uint64, sent int64, size int) (Message, []byte) {
	p := AppendPayload(nil, publisher, n, sent, size)
	return Message{Publisher: publisher, N: n, Digest: c.Digest(p)}, p
}

// Parse reads a payload of AppendPayload, with or without its quotes: in plain
// mode a string comes bare. Any other payload gives ok false and a Message of
// publisher 0.
func (c *Checker) Parse(payload []byte) (m Message, sent int64, ok bool) {
	if len(payload) > 0 && payload[0] != '"' {
		quoted := make([]byte, 0, len(payload)+2)
		payload = append(append(append(quoted, '"'), payload...), '"')
	}
	m.Digest = c.Digest(payload)
	rest, found := bytes.CutPrefix(payload, []byte(mark))
	publisher, rest, ok1 := number(rest)
	rest, found2 := bytes.CutPrefix(rest, []byte(" n"))
	n, rest, ok2 := number(rest)
	rest, found3 := bytes.CutPrefix(rest, []byte(" t"))
	at, _, ok3 := number(rest)
	if !found || !found2 || !found3 || !ok1 || !ok2 || !ok3 {
		return m, 0, false
	}
	m.Publisher, m.N = uint32(publisher), uint64(n)
	return m, at, true
}

// number reads a decimal number. Payloads are written by this package, so no
// care is taken for overflow.
func number(b []byte) (n int64, rest []byte, ok bool) {
	negative := len(b) > 0 && b[0] == '-'
	if negative {
		b = b[1:]
	}
	i := 0
	for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
		n = n*10 + int64(b[i]-'0')
	}
	if negative {
		n = -n
	}
	return n, b[i:], i > 0
}
