package ws

import (
	"encoding/json"
	"strconv"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
)

// hello is the first frame: where the stream stands. A client that brings another
// epoch is told at once that what it knows of seqs is worth nothing here, even if
// nothing was confirmed in this one.
func (t *transport) hello() error {
	at := t.session.Position()
	frame, err := json.Marshal(struct {
		Kind    string `json:"kind"`
		Epoch   string `json:"epoch"`
		Head    int64  `json:"head"`
		Acked   int64  `json:"acked"`
		Session string `json:"session"`
		// PingEvery is how long the server is silent at most.
		PingEvery float64 `json:"pingEverySeconds"`
	}{"hello", t.handler.hub.Epoch(), at.Head, at.Acked, t.session.ID(), t.handler.hub.PingEvery().Seconds()})
	if err != nil {
		return err
	}
	b := appendFrame(nil, finText, frame)
	if t.session.OfOtherEpoch(t.epoch) {
		b = appendGapFrame(b, 1, at.Acked, "epoch")
	}
	_, err = t.conn.Write(b)
	return err
}

// appendV1 appends a batch as message and gap frames.
func appendV1(b []byte, batch hub.Batch) []byte {
	next := batch.After + 1
	for i := range batch.Events {
		e := &batch.Events[i]
		b = appendGap(b, next, e.Seq-1)
		b = appendMessage(b, e)
		next = e.Seq + 1
	}
	return appendGap(b, next, batch.Through)
}

func appendMessage(b []byte, e *events.Event) []byte {
	b, start := beginFrame(b)
	b = append(b, `{"kind":"message","seq":`...)
	b = strconv.AppendInt(b, e.Seq, 10)
	b = append(b, `,"time":"`...)
	b = events.AppendTime(b, e.CreatedAt)
	b = append(b, '"')
	b = appendString(b, `,"type":`, e.Type)
	b = append(b, `,"message":`...)
	b = append(b, e.Payload...)
	b = append(b, `,"expires":"`...)
	b = events.AppendTime(b, e.ExpiresAt)
	b = append(b, '"')
	b = appendString(b, `,"traceparent":`, e.Traceparent)
	b = append(b, '}')
	return endFrame(b, start, finText)
}

// appendString appends a field unless it is empty.
func appendString(b []byte, field, value string) []byte {
	if value == "" {
		return b
	}
	quoted, err := json.Marshal(value)
	if err != nil {
		return b // a string always has a JSON form
	}
	return append(append(b, field...), quoted...)
}

// appendGap announces that the events from one seq to another are gone: they
// expired before anybody confirmed them, or were trimmed after the retention.
func appendGap(b []byte, from, to int64) []byte {
	if from > to {
		return b
	}
	return appendGapFrame(b, from, to, "expired")
}

func appendGapFrame(b []byte, from, to int64, reason string) []byte {
	b, start := beginFrame(b)
	b = append(b, `{"kind":"gap","from":`...)
	b = strconv.AppendInt(b, from, 10)
	b = append(b, `,"to":`...)
	b = strconv.AppendInt(b, to, 10)
	b = append(b, `,"reason":"`...)
	b = append(b, reason...)
	b = append(b, `"}`...)
	return endFrame(b, start, finText)
}

// appendBye announces the end of the session and when to come back.
func appendBye(b []byte, why hub.Closing) []byte {
	b, start := beginFrame(b)
	b = append(b, `{"kind":"bye","code":`...)
	b = strconv.AppendInt(b, int64(why.Code), 10)
	b = appendString(b, `,"reason":`, why.Reason)
	b = append(b, `,"reconnectAfterMs":`...)
	b = strconv.AppendInt(b, int64(why.ReconnectAfter/time.Millisecond), 10)
	b = append(b, '}')
	return endFrame(b, start, finText)
}
