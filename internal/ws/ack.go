package ws

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// errNoAck: the client sent something else than an ack.
var errNoAck = errors.New(`acknowledge with {"kind":"ack","seq":N}`)

// Kinds of frames that a client may send.
const (
	kindAck  = "ack"
	kindPing = "ping"
	kindPong = "pong"
)

// parseFrame returns what a client's frame says: an ack and its seq, a ping or a
// pong; or errNoAck.
func parseFrame(frame []byte) (kind string, seq int64, err error) {
	if seq, err = parseAck(frame); err == nil {
		return kindAck, seq, nil
	}
	var f struct {
		Kind string `json:"kind"`
	}
	decoder := json.NewDecoder(bytes.NewReader(frame))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&f) == nil && (f.Kind == kindPing || f.Kind == kindPong) {
		if _, rest := decoder.Token(); rest == io.EOF {
			return f.Kind, 0, nil
		}
	}
	return "", 0, err
}

// parseAck returns the seq of a client's ack frame, or errNoAck.
func parseAck(frame []byte) (int64, error) {
	if seq, ok := parsePlainAck(frame); ok {
		return seq, nil
	}
	var f struct {
		Kind string `json:"kind"`
		Seq  *int64 `json:"seq"`
	}
	decoder := json.NewDecoder(bytes.NewReader(frame))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		return 0, fmt.Errorf("not a frame of restante.v1; %w", errNoAck)
	}
	if _, err := decoder.Token(); err != io.EOF {
		// A second ack in the same frame would be passed over in silence.
		return 0, fmt.Errorf("more than one value in a frame; %w", errNoAck)
	}
	if f.Kind != kindAck || f.Seq == nil || *f.Seq < 0 {
		return 0, fmt.Errorf("unknown frame; %w", errNoAck)
	}
	return *f.Seq, nil
}

// parsePlainAck understands an ack as nearly every client writes it, byte for
// byte. Frames are as many as messages: a decoder for each was a tenth of all
// that the server allocated.
func parsePlainAck(frame []byte) (seq int64, ok bool) {
	digits, ok := bytes.CutPrefix(frame, []byte(`{"kind":"ack","seq":`))
	digits, ok2 := bytes.CutSuffix(digits, []byte(`}`))
	if !ok || !ok2 || len(digits) == 0 || digits[0] < '1' || digits[0] > '9' {
		return 0, false
	}
	seq, err := strconv.ParseInt(string(digits), 10, 64)
	return seq, err == nil
}
