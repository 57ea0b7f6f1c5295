package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coder/websocket"
)

const (
	subprotocol = "restante.v1"
	maxFrame    = 16 << 20 // bytes of a frame; the gateway's messages are smaller
	ackTimeout  = 10 * time.Second
	lastPing    = 10 * time.Second // how long the answer to the last one may take
)

// reader prints one user's messages over one connection after the other. It
// keeps the position between them, because what is repeated after a reconnect
// carries the same number and must not be printed twice.
type reader struct {
	*env
	gateway service
	opt     connectOptions
	idToken string
	who     string
	line    *line // of the connection that is open

	epoch   string // of the log that last belongs to
	last    int64  // highest seq printed
	printed int
}

// frame is any frame of restante.v1 that the gateway sends.
type frame struct {
	Kind             string          `json:"kind"`
	Epoch            string          `json:"epoch"`
	Head             int64           `json:"head"`
	Acked            int64           `json:"acked"`
	Seq              int64           `json:"seq"`
	Message          json.RawMessage `json:"message"`
	From             int64           `json:"from"`
	To               int64           `json:"to"`
	Reason           string          `json:"reason"`
	ReconnectAfterMs int64           `json:"reconnectAfterMs"`
	PingEvery        float64         `json:"pingEverySeconds"`
}

// once fetches a token, connects and prints until the connection ends or ctx is
// done; then it closes with 1000.
func (r *reader) once(ctx context.Context) ending {
	conn, end := r.dial(ctx)
	if conn == nil {
		return end
	}
	// The library drops the connection without a word when the context of a
	// read ends. So reads get a context of their own, and Ctrl-C closes the
	// connection properly, which ends them.
	reads, stopReads := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReads()
	closed := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = conn.Close(websocket.StatusNormalClosure, "") // the peer may be gone already
	})
	pinging := make(chan struct{})
	go func() {
		defer close(pinging)
		r.line.watch(reads, conn)
	}()

	opened := time.Now()
	end = ending{connected: r.opt.plain}
	if r.opt.plain {
		r.say("Connected as %s.", printable(r.who))
	}
	for end.err == nil && !end.enough {
		var kind websocket.MessageType
		var data []byte
		kind, data, end.err = conn.Read(reads)
		if end.err == nil && kind == websocket.MessageText {
			r.handle(reads, conn, data, &end)
		}
	}
	if end.enough && r.opt.plain {
		r.confirmPlain(reads, conn, &end)
	}
	end.lasted = time.Since(opened)
	end.code = websocket.CloseStatus(end.err)
	switch end.code {
	case websocket.StatusPolicyViolation, closeKicked:
		end.fatal, end.err = true, errors.New(strings.TrimSuffix(end.words(), "."))
	}
	stopReads()
	if unhook() {
		_ = conn.Close(websocket.StatusNormalClosure, "")
	} else {
		<-closed
	}
	<-pinging
	return end
}

// dial opens a connection with a fresh token; without one the ending says why.
func (r *reader) dial(ctx context.Context) (*websocket.Conn, ending) {
	// -plain goes the way of the seed's client: its paths, the bare ID token.
	tokenRequest := request{method: http.MethodPost, path: "/v1/tokens", credential: "Bearer " + r.idToken}
	path, protocols := "/v1/connect", []string{subprotocol}
	if r.opt.plain {
		tokenRequest = request{method: http.MethodGet, path: "/tokens", credential: r.idToken}
		path, protocols = "/ws", nil
	}
	var answer struct {
		Token string `json:"token"`
	}
	err := r.gateway.call(ctx, tokenRequest, &answer)
	var a *answered
	switch {
	case isStatus(err, http.StatusUnauthorized):
		return nil, ending{fatal: true, err: refused(err)}
	case errors.As(err, &a) && a.status < 500 && a.status != http.StatusTooManyRequests:
		return nil, ending{fatal: true, err: err}
	case errors.As(err, &a):
		return nil, ending{err: err, after: a.retry}
	case err != nil:
		return nil, ending{err: err}
	}

	dialing, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	target := "ws" + strings.TrimPrefix(r.gateway.base, "http") + path + "?token=" + url.QueryEscape(answer.Token)
	if r.epoch != "" {
		target += "&epoch=" + url.QueryEscape(r.epoch)
	}
	var web *http.Client
	web, r.line = lineTo()
	conn, res, err := websocket.Dial(dialing, target, &websocket.DialOptions{Subprotocols: protocols, HTTPClient: web})
	if err != nil {
		if res != nil && res.StatusCode != http.StatusSwitchingProtocols {
			return nil, ending{err: &answered{service: r.gateway, status: res.StatusCode}}
		}
		return nil, ending{err: r.gateway.unreachable(err)}
	}
	conn.SetReadLimit(maxFrame)
	if !r.opt.plain && conn.Subprotocol() != subprotocol {
		_ = conn.CloseNow()
		return nil, ending{fatal: true, err: hint(
			fmt.Errorf("%s does not speak %s", r.gateway.base, subprotocol), "Is it a Restante gateway? -plain does without.")}
	}
	return conn, ending{}
}

// confirmPlain stays until the gateway's last ping is answered. That happens
// inside Read, and confirms everything before that ping: so messages that come
// meanwhile are printed too, beyond the number that was asked for. Our own
// ping's answer comes after the gateway's ping, and says that it is time to go.
func (r *reader) confirmPlain(ctx context.Context, conn *websocket.Conn, end *ending) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ping, cancel := context.WithTimeout(ctx, lastPing)
		defer cancel()
		_ = conn.Ping(ping) // a peer that is gone confirms nothing, and need not be waited for
		_ = conn.Close(websocket.StatusNormalClosure, "")
	}()
	for {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			break
		}
		if kind == websocket.MessageText {
			if r.printLine(printable(string(data)), end); end.err != nil {
				end.enough = false
				_ = conn.CloseNow()
			}
		}
	}
	<-done
}

// handle prints one frame, and confirms what has a seq.
func (r *reader) handle(ctx context.Context, conn *websocket.Conn, data []byte, end *ending) {
	if r.opt.plain {
		// The gateway knows from the WebSocket's own pong that this was read;
		// the library answers pings while the next Read waits, so after printing.
		r.print(printable(string(data)), end)
		return
	}
	var f frame
	if err := json.Unmarshal(data, &f); err != nil {
		end.fatal, end.err = true, fmt.Errorf("the gateway sent a frame that is not JSON: %w", err)
		return
	}
	if r.opt.json && f.Kind != "message" {
		r.printLine(string(data), end)
	}
	switch f.Kind {
	case "hello":
		end.connected = true
		r.line.expect(time.Duration(f.PingEvery * float64(time.Second)))
		r.hello(f)
	case "message":
		r.message(ctx, conn, f, data, end)
	case "gap":
		r.last = max(r.last, f.To)
		if f.Reason == "epoch" {
			r.say("Messages 1 to %d were confirmed in that log; they may be others than those printed here.", f.To)
			return
		}
		r.say("Messages %d to %d will not arrive: %s.", f.From, f.To, printable(f.Reason))
		confirm(ctx, conn, f.To, end)
	case "bye":
		end.after = time.Duration(min(max(f.ReconnectAfterMs, 0), 600_000)) * time.Millisecond
	}
}

// hello compares the log's state with what was printed before.
func (r *reader) hello(f frame) {
	waiting := ""
	if n := f.Head - f.Acked; n > 0 {
		waiting = fmt.Sprintf(", %d waiting", n)
	}
	r.say("Connected as %s%s.", printable(r.who), waiting)
	if r.epoch != "" && r.epoch != f.Epoch {
		r.say("The gateway's log was restored or replaced: numbers begin again, messages may be missing.")
		r.last = 0
	}
	r.epoch = f.Epoch
}

// message prints a message that is new, and confirms it either way.
func (r *reader) message(ctx context.Context, conn *websocket.Conn, f frame, data []byte, end *ending) {
	if f.Seq > r.last {
		if r.opt.json {
			r.print(string(data), end)
		} else {
			r.print(oneLine(f.Message), end)
		}
		if end.err != nil {
			return // it is not where it should be: do not confirm it
		}
		r.last = f.Seq
	}
	confirm(ctx, conn, f.Seq, end)
}

// confirm acknowledges everything up to seq.
func confirm(ctx context.Context, conn *websocket.Conn, seq int64, end *ending) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"kind":"ack","seq":%d}`, seq)); err != nil {
		end.err = err
	}
}

// print writes one message and counts it.
func (r *reader) print(text string, end *ending) {
	r.printLine(text, end)
	if end.err == nil {
		r.printed++
		end.enough = r.opt.count > 0 && r.printed >= r.opt.count
	}
}

func (r *reader) printLine(text string, end *ending) {
	if _, err := fmt.Fprintln(r.stdout, text); err != nil {
		end.fatal, end.err = true, fmt.Errorf("write to standard output: %w", err)
	}
}
