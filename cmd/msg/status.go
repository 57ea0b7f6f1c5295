package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

func statusCommand() command {
	return command{
		name:  "status",
		args:  "USER",
		short: "show a user: connected where, how much is pending",
		long: `
Shows what the gateway knows about a user: the last message accepted (head), the
last one confirmed (acked), how many are pending, and the live connections. Needs
an API key with the scope "read".

  msg status 7d0c…
  msg status 7d0c… -json`,
		prepare: func(e *env, f *flags) action {
			asJSON := f.Bool("json", false, "print the gateway's answer as it is")
			return func(ctx context.Context, args []string) error {
				if len(args) != 1 {
					return usagef("give one user id")
				}
				return e.status(ctx, args[0], *asJSON)
			}
		},
	}
}

func messageCommand() command {
	return command{
		name:  "message",
		args:  "USER SEQ",
		short: "show what has become of one message",
		long: `
Shows the state of a message that was published: accepted (on disk, not confirmed
yet), delivered (a client has confirmed it) or expired. Needs an API key with the
scope "read".

  msg message 7d0c… 42`,
		prepare: func(e *env, f *flags) action {
			asJSON := f.Bool("json", false, "print the gateway's answer as it is")
			return func(ctx context.Context, args []string) error {
				if len(args) != 2 {
					return usagef("give a user id and the number of a message")
				}
				seq, err := strconv.ParseInt(args[1], 10, 64)
				if err != nil || seq < 1 {
					return usagef("%q is not the number of a message: they begin with 1", args[1])
				}
				return e.message(ctx, args[0], seq, *asJSON)
			}
		},
	}
}

// read gets a resource with the API key.
func (e *env) read(ctx context.Context, path string, missing error) (json.RawMessage, error) {
	gateway, err := e.gateway()
	if err != nil {
		return nil, err
	}
	apiKey, err := e.apiKey()
	if err != nil {
		return nil, err
	}
	var raw json.RawMessage
	err = gateway.call(ctx, request{method: http.MethodGet, path: path, credential: "Bearer " + apiKey}, &raw)
	switch {
	case isStatus(err, http.StatusNotFound):
		return nil, missing
	case isStatus(err, http.StatusUnauthorized), isStatus(err, http.StatusForbidden):
		return nil, keyRefused(err, "read")
	}
	return raw, err
}

func (e *env) status(ctx context.Context, user string, asJSON bool) error {
	raw, err := e.read(ctx, userPath(user), hint(fmt.Errorf("the gateway has never heard of a user %q", user),
		`USER is the user id, the "sub" of the ID token: msg auth shows it.`))
	if err != nil {
		return err
	}
	if asJSON {
		return e.printJSON(raw)
	}
	var answer struct {
		Head     int64 `json:"head"`
		Acked    int64 `json:"acked"`
		Pending  int64 `json:"pending"`
		Sessions []struct {
			SessionID   string    `json:"session"`
			ReplicaID   string    `json:"replica"`
			Transport   string    `json:"transport"`
			ConnectedAt time.Time `json:"connectedAt"`
		} `json:"sessions"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return errors.New("the gateway's answer is not understood; see it with -json")
	}
	fmt.Fprintf(e.stdout, "user      %s\naccepted  %d (head)\nconfirmed %d (acked)\npending   %d\n",
		printable(user), answer.Head, answer.Acked, answer.Pending)
	if len(answer.Sessions) == 0 {
		fmt.Fprintln(e.stdout, "sessions  none: messages wait")
	}
	for _, s := range answer.Sessions {
		fmt.Fprintf(e.stdout, "session   %s %s on replica %s since %s\n",
			s.SessionID, s.Transport, s.ReplicaID, clock(s.ConnectedAt))
	}
	return nil
}

func (e *env) message(ctx context.Context, user string, seq int64, asJSON bool) error {
	raw, err := e.read(ctx, userPath(user)+"/messages/"+strconv.FormatInt(seq, 10),
		fmt.Errorf("there is no message %d of %q: it was never accepted, or is so old that it was deleted", seq, user))
	if err != nil {
		return err
	}
	if asJSON {
		return e.printJSON(raw)
	}
	var answer struct {
		State      string    `json:"state"`
		AcceptedAt time.Time `json:"acceptedAt"`
		ExpiresAt  time.Time `json:"expiresAt"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.State == "" {
		return errors.New("the gateway's answer is not understood; see it with -json")
	}
	words := map[string]string{
		"accepted":  "waits for the user until " + clock(answer.ExpiresAt),
		"delivered": "a client has confirmed it",
		"expired":   "nobody confirmed it in time",
	}[answer.State]
	// The gateway forgets the times of a message that has expired.
	if !answer.AcceptedAt.IsZero() {
		words += "; accepted at " + clock(answer.AcceptedAt)
		if answer.State == "expired" {
			words += ", expired at " + clock(answer.ExpiresAt)
		}
	}
	fmt.Fprintf(e.stdout, "%s: %s\n", answer.State, words)
	return nil
}

func (e *env) printJSON(raw json.RawMessage) error {
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return fmt.Errorf("format answer: %w", err)
	}
	_, err := fmt.Fprintln(e.stdout, out.String())
	return err
}
