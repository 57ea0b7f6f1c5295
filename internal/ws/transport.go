package ws

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"restante/internal/events"
	"restante/internal/hub"
)

// transport is one WebSocket connection of a session.
type transport struct {
	handler *Handler
	session *hub.Session
	ws      *websocket.Conn // reads, answers pings, closes
	conn    *conn           // what everything is written to
	v1      bool
	epoch   string // that the client knows; "" if it says none
	pace    pace   // plain mode
	flood   flood
}

// run greets, starts delivery and reads until the connection ends.
func (t *transport) run() {
	if t.v1 {
		if err := t.hello(); err != nil {
			t.session.End(hub.Unreachable)
			_ = t.ws.CloseNow() // Start was not called, so End has closed nothing
			return
		}
	}
	t.session.Start(t)
	t.session.End(t.read())
}

// read reads client frames until the connection ends, and says why it did.
func (t *transport) read() hub.Closing {
	for {
		// A context that can be cancelled would cost an allocation per frame; the
		// session's pings and deadlines watch over the connection.
		kind, r, err := t.ws.Reader(context.Background())
		if err != nil {
			return closingOf(err)
		}
		if t.flood.take(time.Now()) {
			return hub.TooManyFrames
		}
		if !t.v1 {
			if _, err := io.Copy(io.Discard, r); err != nil {
				return closingOf(err)
			}
			t.session.Heard()
			continue
		}
		if kind != websocket.MessageText {
			return hub.Violation(hub.CodePolicy, "restante.v1 takes text frames only")
		}
		kindOf, seq, err := t.readFrame(r)
		switch {
		case errors.Is(err, errNoAck):
			return hub.Violation(hub.CodePolicy, err.Error())
		case err != nil:
			return closingOf(err)
		}
		switch kindOf {
		case kindAck:
			if err := t.session.Ack(seq); err != nil {
				return hub.Violation(hub.CodePolicy, fmt.Sprintf("seq %d: %v", seq, err))
			}
		case kindPing:
			t.session.Heard()
			if err := t.conn.answer(appendFrame(nil, finText, []byte(`{"kind":"pong"}`))); err != nil {
				return closingOf(err)
			}
		case kindPong:
			t.session.Heard()
		}
		t.flood.ack(seq)
	}
}

// readFrame reads a client's frame into a buffer that is shared by all: a
// connection that waits for its next one keeps none.
func (t *transport) readFrame(r io.Reader) (kind string, seq int64, err error) {
	shared := t.handler.outgoing()
	defer t.handler.release(shared)
	buffer := bytes.NewBuffer(shared.frames)
	_, err = buffer.ReadFrom(r)
	if shared.frames = buffer.Bytes(); err != nil {
		return "", 0, err
	}
	return parseFrame(shared.frames)
}

// pong is called by the reader. In plain mode the payload is the seq that the
// ping asked about; a pong that confirms nothing is a sign of life.
func (t *transport) pong(_ context.Context, payload []byte) {
	if t.flood.take(time.Now()) {
		t.session.End(hub.TooManyFrames)
		return
	}
	if !t.v1 && len(payload) == 8 {
		seq := int64(binary.BigEndian.Uint64(payload))
		if t.session.Ack(seq) == nil {
			t.pace.confirmed(seq, time.Now())
			t.flood.ack(seq)
			return
		}
	}
	t.session.Heard()
}

// Send implements hub.Transport. What the client does not take at once is not
// kept, but for the unit that is partly written.
func (t *transport) Send(batch hub.Batch) error {
	out := t.handler.outgoing()
	defer t.handler.release(out)
	t.encode(out, batch)
	c := t.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept != nil {
		t.session.Blocked(hub.Batch{After: batch.After, Page: events.Page{Through: batch.After}})
		return nil
	}
	n, err := c.push(out.frames)
	if !errors.Is(err, errFull) {
		return err
	}
	last := out.unit(n)
	t.session.Blocked(hub.Batch{After: batch.After, Page: events.Page{Events: batch.Events[:last.events], Through: last.through}})
	c.keep(out.frames[n:last.end])
	return nil
}

// Ping implements hub.Transport. A page does not see the WebSocket's pings, but it
// sees a ping frame, and knows that the connection is alive. The answer that counts
// is the WebSocket's own pong: clients need not know ping frames.
func (t *transport) Ping() error {
	var frames []byte
	if t.v1 {
		frames = appendFrame(frames, finText, []byte(`{"kind":"ping"}`))
	}
	_, err := t.conn.Write(appendFrame(frames, finPing, nil))
	return err
}

// Close implements hub.Transport: bye, the close frame, and the end of the
// connection, in a goroutine that the handler waits for.
func (t *transport) Close(why hub.Closing) {
	if why.Code == hub.CodeNormal || why.Code == hub.Unreachable.Code || why == hub.NoRoom {
		_ = t.ws.CloseNow() // the client closed, or is gone, or would keep the memory until it reads
		return
	}
	t.handler.open.Go(func() {
		reason := why.Reason
		if t.v1 {
			if _, err := t.conn.Write(appendBye(nil, why)); err != nil {
				_ = t.ws.CloseNow()
				return
			}
		} else if why.ReconnectAfter > 0 {
			reason = fmt.Sprintf("%s in %d ms", reason, why.ReconnectAfter.Milliseconds())
		}
		// It waits for the client's answer for a few seconds at most; an error means
		// that there was none, and the connection is closed all the same.
		_ = t.ws.Close(websocket.StatusCode(why.Code), truncate(reason))
	})
}

// truncate keeps a close reason within the 123 bytes that RFC 6455 section 5.5
// leaves for it.
func truncate(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), 123)], "")
}

// closingOf tells from a read error how the connection ended.
func closingOf(err error) hub.Closing {
	var closed websocket.CloseError
	switch {
	case errors.As(err, &closed):
		return hub.ByClient
	case errors.Is(err, websocket.ErrMessageTooBig):
		return hub.Violation(hub.CodeTooBig, "frame larger than 4096 bytes")
	}
	return hub.Unreachable
}

// chosenProtocols is the one of the client's subprotocols that is spoken, if any:
// restante.v1, or else the item that carries the token. That is plain mode, but a
// browser fails a connection whose server chooses nothing of what it offered. The
// answer repeats the token then; it is used up.
func chosenProtocols(r *http.Request) (chosen []string) {
	for _, header := range r.Header.Values("Sec-WebSocket-Protocol") {
		for offered := range strings.SplitSeq(header, ",") {
			switch offered = strings.TrimSpace(offered); {
			case offered == Protocol:
				return []string{Protocol}
			case chosen == nil && strings.HasPrefix(offered, TokenProtocol):
				chosen = []string{offered}
			}
		}
	}
	return chosen
}
