package ws

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"unicode/utf8"

	"restante/internal/hub"
)

// appendPlain appends a batch as bare messages and the ping that asks about the
// last of them. Gaps cannot be told in this mode; they are counted.
func appendPlain(b []byte, batch hub.Batch) []byte {
	for i := range batch.Events {
		b = appendFrame(b, finText, plainText(batch.Events[i].Payload))
	}
	if n := len(batch.Events); n > 0 {
		b = appendHeader(b, finPing, 8)
		b = binary.BigEndian.AppendUint64(b, uint64(batch.Events[n-1].Seq))
	}
	return b
}

// plainText is a JSON string's bare text, as the seed's clients expect it, and
// any other JSON value as it is.
func plainText(payload json.RawMessage) []byte {
	if len(payload) < 2 || payload[0] != '"' {
		return payload
	}
	// Most strings have nothing to unescape: encoding/json takes 2 µs to say so.
	if bare := payload[1 : len(payload)-1]; payload[len(payload)-1] == '"' && bytes.IndexByte(bare, '\\') < 0 && utf8.Valid(bare) {
		return bare
	}
	var text string
	if json.Unmarshal(payload, &text) != nil {
		return payload
	}
	return []byte(text)
}
