package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

const maxPublish = 8 << 20 // bytes read from standard input; the gateway's own limit is lower

func publishCommand() command {
	return command{
		name:  "publish",
		args:  "USER MESSAGE",
		short: "post a message for a user, as a back end does",
		long: `
Posts MESSAGE for USER with the API key in RESTANTE_API_KEY. When the command
ends well the message is on the gateway's disk. MESSAGE is sent as it is when it
is JSON, else as a JSON string; - reads it from standard input.

  msg publish 7d0c… 'Your order has left'
  msg publish 7d0c… '{"order": 17, "state": "sent"}' -type order.sent
  msg publish 7d0c… -text 42
  generate-report | msg publish 7d0c… - -ttl 48h -key report-2024-17

USER is the user id (the "sub" of the ID token), not the name to sign in with.`,
		prepare: func(e *env, f *flags) action {
			var opt publishOptions
			f.StringVar(&opt.kind, "type", "", "`type` of the message, shown to clients")
			f.DurationVar(&opt.ttl, "ttl", 0, "how long it may wait for the user, for example 48h; 0 is the gateway's own rule")
			f.StringVar(&opt.key, "key", "", "idempotency `key`: repeating the command with the same one is safe (default a new one)")
			f.BoolVar(&opt.text, "text", false, "MESSAGE is text even if it looks like JSON")
			return func(ctx context.Context, args []string) error {
				if len(args) < 2 {
					return usagef("give a user id and a message")
				}
				if opt.ttl < 0 || opt.ttl%time.Second != 0 {
					return usagef("-ttl must be a positive number of whole seconds")
				}
				opt.user, opt.message = args[0], strings.Join(args[1:], " ")
				return e.publish(ctx, opt)
			}
		},
	}
}

type publishOptions struct {
	user, message, kind, key string
	ttl                      time.Duration
	text                     bool
}

func (e *env) publish(ctx context.Context, opt publishOptions) error {
	gateway, err := e.gateway()
	if err != nil {
		return err
	}
	apiKey, err := e.apiKey()
	if err != nil {
		return err
	}
	message, err := e.messageValue(opt)
	if err != nil {
		return err
	}
	if opt.key == "" {
		opt.key = rand.Text()
	}
	body := struct {
		UserID  string          `json:"userId"`
		Message json.RawMessage `json:"message"`
		Type    string          `json:"type,omitempty"`
		TTL     int64           `json:"ttl,omitempty"`
	}{opt.user, message, opt.kind, int64(opt.ttl / time.Second)}
	var receipt struct {
		Seq      int64     `json:"seq"`
		Expires  time.Time `json:"expiresAt"`
		Repeated bool      `json:"repeated"`
	}
	err = gateway.call(ctx, request{
		method: http.MethodPost, path: "/v1/messages", credential: "Bearer " + apiKey, body: body,
		headers: map[string]string{"Idempotency-Key": opt.key},
	}, &receipt)
	var a *answered
	var nobody *absent
	switch {
	case errors.As(err, &nobody):
		return err
	case isStatus(err, http.StatusUnauthorized), isStatus(err, http.StatusForbidden):
		return keyRefused(err, "publish")
	case err != nil && (!errors.As(err, &a) || a.status >= 500 || a.status == http.StatusTooManyRequests):
		return hint(err, "It is not certain whether the message was accepted. Repeating is safe with: -key "+shellQuote(opt.key))
	case err != nil:
		return err
	}
	fmt.Fprintln(e.stdout, receipt.Seq)
	again := ""
	if receipt.Repeated {
		again = " It had been accepted before, with the same key."
	}
	e.say("Message %d of %s is on disk and waits until %s.%s", receipt.Seq, printable(opt.user), clock(receipt.Expires), again)
	return nil
}

// messageValue is the message as a JSON value.
func (e *env) messageValue(opt publishOptions) (json.RawMessage, error) {
	text := opt.message
	if text == "-" {
		raw, err := io.ReadAll(io.LimitReader(e.stdin, maxPublish+1))
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		if len(raw) > maxPublish {
			return nil, fmt.Errorf("the message is longer than %d bytes", maxPublish)
		}
		text = string(raw)
	}
	if !utf8.ValidString(text) {
		return nil, errors.New("the message is not valid UTF-8")
	}
	if trimmed := strings.TrimSpace(text); !opt.text && json.Valid([]byte(trimmed)) {
		return json.RawMessage(trimmed), nil
	}
	return json.Marshal(text)
}

// keyRefused says which scope a key must have.
func keyRefused(err error, scope string) error {
	return hint(err, "RESTANTE_API_KEY must be a key with the scope "+scope+": msg keys create -name me -scopes "+scope)
}

// userPath is the path of a user's resources.
func userPath(user string) string {
	escaped := url.PathEscape(user)
	if user == "." || user == ".." {
		// A path with dots is shortened on its way.
		escaped = strings.ReplaceAll(user, ".", "%2E")
	}
	return "/v1/users/" + escaped
}
