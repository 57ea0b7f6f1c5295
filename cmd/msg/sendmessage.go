package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

func sendCommand() command {
	return command{
		name:  "send-message",
		args:  "TEXT…",
		short: "start a long task at the sample application; its result is a message",
		long: `
Asks the sample application for a long task. It answers at once, works for -w
seconds, and then sends TEXT to the signed-in user through the gateway: to see
it arrive, run msg connect-websocket, before or after.

  msg send-message "The report is ready" -w 20
  msg send-message Several words are one message`,
		prepare: func(e *env, f *flags) action {
			var wait float64
			var token string
			f.float64Var(&wait, "w", "wait", 10, "how long the task takes, in `seconds`, at most 900")
			f.stringVar(&token, "t", "token", "", "ID `token` instead of ID_TOKEN")
			return func(ctx context.Context, args []string) error {
				if len(args) == 0 {
					return usagef("give the text of the message")
				}
				if !(wait >= 0 && wait <= 900) {
					return usagef("-w must be between 0 and 900 seconds")
				}
				return e.sendMessage(ctx, token, strings.Join(args, " "), wait)
			}
		},
	}
}

func (e *env) sendMessage(ctx context.Context, token, text string, wait float64) error {
	sample, err := e.sample()
	if err != nil {
		return err
	}
	idToken, c, err := e.idToken(token)
	if err != nil {
		return err
	}
	var answer struct {
		TaskID string    `json:"taskId"`
		UserID string    `json:"userId"`
		Due    time.Time `json:"due"`
	}
	err = sample.call(ctx, request{
		method: http.MethodPost, path: "/process", credential: idToken,
		// Without a user id, it is the token's user: which claim that is, is the
		// server's business.
		body: map[string]any{"message": text, "wait": wait},
	}, &answer)
	if err != nil {
		return refused(err)
	}
	fmt.Fprintln(e.stdout, answer.TaskID)
	e.say("Task accepted. The message for %s is due at %s.", printable(c.name()), clock(answer.Due))
	return nil
}
