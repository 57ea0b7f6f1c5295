package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"restante/internal/checker"
)

// device is one connection of a user, kept up until the load ends.
type device struct {
	*load
	user    string
	idToken string
}

// How a device behaves.
const (
	dialWithin = 10 * time.Second
	comeBack   = 200 * time.Millisecond // at the least, when nobody said how long to wait
)

// frame is what the gateway says in restante.v1.
type frame struct {
	Kind             string          `json:"kind"`
	Head             int64           `json:"head"`
	Acked            int64           `json:"acked"`
	Seq              int64           `json:"seq"`
	From             int64           `json:"from"`
	To               int64           `json:"to"`
	Message          json.RawMessage `json:"message"`
	Code             int             `json:"code"`
	ReconnectAfterMs int64           `json:"reconnectAfterMs"`
}

// run connects, reads and acknowledges, and comes back when it is let go.
func (d *device) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := comeBack + rand.N(comeBack)
		told, err := d.once(ctx)
		if told >= 0 {
			wait = told
		}
		if err != nil && ctx.Err() == nil {
			d.complain("a device: %v", err)
		}
		_ = pause(ctx, wait) // the loop looks at ctx
	}
}

// once is one connection. It returns when the gateway wants the device back, -1 if it
// did not say.
func (d *device) once(ctx context.Context) (time.Duration, error) {
	seen := d.check.Connect(d.user, checker.FromAcked)
	defer seen.Closed()
	conn, err := d.dial(ctx)
	if err != nil {
		return -1, err
	}
	defer conn.CloseNow()
	d.connected.Add(1)
	defer func() {
		d.connected.Add(-1)
		if ctx.Err() == nil {
			d.lost.Add(1)
		}
	}()
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return -1, err
		}
		var f frame
		if err := json.Unmarshal(text, &f); err != nil {
			return -1, fmt.Errorf("frame %.80q: %w", text, err)
		}
		switch f.Kind {
		case "hello":
			seen.Hello(f.Head, f.Acked)
			continue
		case "bye":
			d.bye(f)
			return time.Duration(f.ReconnectAfterMs) * time.Millisecond, nil
		case "gap":
			seen.Gap(f.From, f.To)
			f.Seq = f.To
		case "message":
			m, sent, _ := d.check.Parse(f.Message)
			seen.Received(f.Seq, m)
			d.arrived(sent)
		case "ping":
			continue
		default:
			return -1, fmt.Errorf("frame of unknown kind %q", f.Kind)
		}
		seen.Confirmed(f.Seq)
		if err := conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"kind":"ack","seq":%d}`, f.Seq)); err != nil {
			return -1, err
		}
	}
}

func (d *device) dial(ctx context.Context) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	var answer struct{ Token string }
	if err := d.call(ctx, d.gateway+"/v1/tokens", "Bearer "+d.idToken, nil, &answer); err != nil {
		return nil, err
	}
	conn, _, err := websocket.Dial(ctx, "ws"+d.gateway[len("http"):]+"/v1/connect?token="+url.QueryEscape(answer.Token),
		&websocket.DialOptions{Subprotocols: []string{"restante.v1"}, HTTPClient: d.web})
	return conn, err
}

// signIn makes a user at the development issuer and returns its ID token.
func (l *load) signIn(ctx context.Context, user string) (string, error) {
	const password = "Passw0rd!"
	account, err := json.Marshal(map[string]string{"username": user, "password": password})
	if err != nil {
		return "", err
	}
	if err := l.call(ctx, l.issuer+"/users", "", account, nil); err != nil {
		return "", fmt.Errorf("make %s: %w", user, err)
	}
	form := url.Values{"grant_type": {"password"}, "client_id": {"restante"}, "scope": {"openid profile email"}, "username": {user}, "password": {password}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.issuer+"/token", bytes.NewBufferString(form.Encode()))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	var answer struct {
		IDToken string `json:"id_token"`
	}
	if err := l.do(request, &answer); err != nil {
		return "", fmt.Errorf("sign in %s: %w", user, err)
	}
	return answer.IDToken, nil
}

// call posts JSON.
func (l *load) call(ctx context.Context, target, credential string, body []byte, out any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	if credential != "" {
		request.Header.Set("Authorization", credential)
	}
	return l.do(request, out)
}

// statusError is an answer that is not a success.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("%d: %.200s", e.status, e.body) }

func (l *load) do(request *http.Request, out any) error {
	answer, err := l.web.Do(request)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // the URL may carry a token
		}
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode/100 != 2 {
		return &statusError{answer.StatusCode, string(body)}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(body, out)
}
