package ws

import "encoding/binary"

// Opcodes of RFC 6455 section 5.2, with the FIN bit: a server's frames are not
// fragmented and not masked here.
const (
	finText = 0x80 | 0x1
	finPing = 0x80 | 0x9
)

// maxHeader is the longest header of an unmasked frame.
const maxHeader = 10

// appendFrame appends a frame.
func appendFrame(b []byte, opcode byte, payload []byte) []byte {
	return append(appendHeader(b, opcode, len(payload)), payload...)
}

func appendHeader(b []byte, opcode byte, length int) []byte {
	switch {
	case length <= 125:
		return append(b, opcode, byte(length))
	case length <= 0xffff:
		return binary.BigEndian.AppendUint16(append(b, opcode, 126), uint16(length))
	default:
		return binary.BigEndian.AppendUint64(append(b, opcode, 127), uint64(length))
	}
}

// beginFrame reserves room for the longest header; endFrame puts the header right
// before the payload that was appended since, and closes the gap.
func beginFrame(b []byte) (_ []byte, start int) {
	return append(b, make([]byte, maxHeader)...), len(b)
}

func endFrame(b []byte, start int, opcode byte) []byte {
	payload := b[start+maxHeader:]
	header := appendHeader(b[start:start], opcode, len(payload))
	n := copy(b[start+len(header):], payload)
	return b[:start+len(header)+n]
}
