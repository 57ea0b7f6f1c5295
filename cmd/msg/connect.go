package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/coder/websocket"
)

func connectCommand() command {
	return command{
		name:  "connect-websocket",
		short: "connect as the signed-in user and print messages as they arrive",
		long: `
Connects to the gateway as the user of ID_TOKEN and prints each message on a line
of its own, first those that waited. A message is confirmed to the gateway once
it has been printed; what was not confirmed comes again next time.

  msg connect-websocket
  msg connect-websocket -json | jq .message
  msg connect-websocket -n 3            ends after three messages (with -plain: at least three)
  msg connect-websocket -plain          as a client that knows no protocol: wscat, the seed's script

The connection is kept up: when it ends, a fresh token is fetched and a new one
opened, until Ctrl-C. With -once the command ends with the connection.`,
		prepare: func(e *env, f *flags) action {
			var opt connectOptions
			f.StringVar(&opt.token, "t", "", "ID `token` instead of ID_TOKEN")
			f.StringVar(&opt.token, "token", "", "ID `token` instead of ID_TOKEN")
			f.alias["token"] = "t"
			f.BoolVar(&opt.plain, "plain", false, "no subprotocol: messages only, confirmed by WebSocket pings")
			f.BoolVar(&opt.json, "json", false, "print the gateway's frames as they are, one per line")
			f.BoolVar(&opt.once, "once", false, "do not reconnect")
			f.IntVar(&opt.count, "n", 0, "end after this `number` of messages")
			return func(ctx context.Context, args []string) error {
				if len(args) > 0 {
					return usagef("unexpected argument %q", args[0])
				}
				if opt.plain && opt.json {
					return usagef("-plain has no frames that -json could print")
				}
				if opt.count < 0 {
					return usagef("-n must not be negative")
				}
				return e.connect(ctx, opt)
			}
		},
	}
}

type connectOptions struct {
	token             string
	plain, json, once bool
	count             int // 0: until stopped
}

// closeKicked is the close code of a connection that somebody has ended: to come
// back at once would be to defy them.
const closeKicked = 4410

// Pauses between connections. The first is short, because most connections end
// with a deploy or a wink of the network.
const (
	firstPause   = 500 * time.Millisecond
	longestPause = 30 * time.Second
)

// connect keeps a connection until ctx is done.
func (e *env) connect(ctx context.Context, opt connectOptions) error {
	gateway, err := e.gateway()
	if err != nil {
		return err
	}
	idToken, c, err := e.idToken(opt.token)
	if err != nil {
		return err
	}
	reader := &reader{env: e, gateway: gateway, opt: opt, idToken: idToken, who: c.name()}
	for attempt, first := 1, true; ; first = false {
		end := reader.once(ctx)
		switch {
		case ctx.Err() != nil:
			e.say("Disconnected.")
			return nil
		case end.enough:
			return nil
		case end.fatal:
			return end.err
		case first && !end.connected && end.err != nil && !isRetryable(end.err):
			// Nobody waits for a gateway that has never been there: the address
			// is wrong, or it is not started.
			return end.err
		case opt.once:
			return end.onlyOnce()
		}
		if err := stillGood(c); err != nil {
			return err
		}
		if end.lasted > longestPause {
			attempt = 1 // it had worked: this is a new trouble, not the old one
		}
		pause := end.after + rand.N(min(firstPause<<min(attempt-1, 10), longestPause))
		attempt++
		e.say("%s Reconnecting in %.1f s.", end.words(), pause.Seconds())
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			e.say("Disconnected.")
			return nil
		}
	}
}

// isRetryable reports whether a gateway has answered, only not now.
func isRetryable(err error) bool {
	var a *answered
	return errors.As(err, &a) && (a.status >= 500 || a.status == 429)
}

// ending is how one connection ended.
type ending struct {
	connected bool // it had been open
	lasted    time.Duration
	enough    bool // as many messages as were asked for
	fatal     bool // trying again is no use
	code      websocket.StatusCode
	after     time.Duration // the gateway asks not to come back earlier
	err       error
}

// closeWords say what the gateway's close codes mean; "" for one that means
// nothing to us.
func closeWords(code websocket.StatusCode) string {
	switch code {
	case websocket.StatusNormalClosure:
		return "The gateway closed the connection."
	case websocket.StatusServiceRestart:
		return "The gateway is restarting, or the connection was old."
	case websocket.StatusTryAgainLater:
		return "The gateway is overloaded."
	case websocket.StatusPolicyViolation:
		return "The gateway did not understand this program."
	case websocket.StatusMessageTooBig:
		return "A frame was too long."
	case 4401:
		return "The connection token was not accepted."
	case 4408:
		return "Messages were not confirmed in time."
	case 4409:
		return "This user has too many connections."
	case closeKicked:
		return "An operator has removed this connection."
	}
	return ""
}

func (end ending) words() string {
	if words := closeWords(end.code); words != "" {
		return words
	}
	if end.err != nil && !end.connected {
		return end.err.Error() + "."
	}
	return "The connection was lost."
}

// onlyOnce is the outcome of a command that does not reconnect.
func (end ending) onlyOnce() error {
	switch {
	case end.code == websocket.StatusNormalClosure, end.code == websocket.StatusServiceRestart:
		return nil
	case end.err != nil && !end.connected:
		return end.err
	case end.code > 0:
		return fmt.Errorf("%s (close code %d)", end.words(), end.code)
	}
	return fmt.Errorf("the connection was lost: %w", end.err)
}
