package api_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"restante/internal/api"
	"restante/internal/events"
	"restante/internal/hub"
	"restante/internal/tokens"
	"restante/internal/ws"
)

var upgrade = []string{"Connection", "keep-alive, Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="}

func with(headers []string, more ...string) []string {
	return append(append([]string{}, headers...), more...)
}

// handshake writes a request as a WebSocket client does.
func handshake(path string, headers []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: gateway\r\n", path)
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", headers[i], headers[i+1])
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

func TestConnect(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"v1":          handshake("/v1/connect?token=token-for-ann", upgrade),
		"seed":        handshake("/ws?token=token-for-ann", upgrade),
		"subprotocol": handshake("/v1/connect", with(upgrade, "Sec-WebSocket-Protocol", "restante.v1, restante.token.token-for-ann")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, api.Config{})
			_, answer := dial(t, g, request)
			r := read(t, answer)
			line, err := answer.ReadString('\n')
			if r.StatusCode != 101 || line != "hello ann\n" {
				t.Errorf("%d %q %v", r.StatusCode, line, err)
			}
			if g.tokens.uses() != 1 {
				t.Errorf("the token was redeemed %d times", g.tokens.uses())
			}
			if out := g.output.String(); strings.Contains(out, "token-for-") {
				t.Errorf("the token was logged:\n%s", out)
			}
		})
	}
}

// What cannot become a WebSocket does not cost the token.
func TestConnectNotWebSocket(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	for _, c := range []struct {
		header, value string
		status        int
		kind          string
	}{
		{"Upgrade", "", 426, "upgrade-required"},
		{"Upgrade", "h2c", 426, "upgrade-required"},
		{"Connection", "keep-alive", 426, "upgrade-required"},
		{"Sec-WebSocket-Version", "8", 426, "upgrade-required"},
		{"Sec-WebSocket-Version", "", 426, "upgrade-required"},
		{"Sec-WebSocket-Key", "", 400, "invalid-request"},
		{"Sec-WebSocket-Key", "short", 400, "invalid-request"},
	} {
		headers := with(upgrade)
		for i := 0; i < len(headers); i += 2 {
			if headers[i] == c.header {
				headers[i+1] = c.value
			}
		}
		_, answer := dial(t, g, handshake("/v1/connect?token=token-for-ann", headers))
		r := read(t, answer)
		r.problem(t, c.status, c.kind)
		if c.status == 426 && (r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Sec-WebSocket-Version") != "13") {
			t.Errorf("%v", r.Header)
		}
	}
	if g.tokens.uses() != 0 {
		t.Errorf("tokens were used up: %d", g.tokens.uses())
	}
	g.works(t)
}

// Nor does what is refused whoever asks.
func TestConnectNotAdmitted(t *testing.T) {
	t.Parallel()
	for kind, c := range map[string]struct {
		err    error
		status int
	}{
		"origin-not-allowed": {ws.ErrOrigin, 403},
		"draining":           {hub.ErrDraining, 503},
	} {
		g := start(t, api.Config{})
		g.connector.refuse = c.err
		_, answer := dial(t, g, handshake("/v1/connect?token=token-for-ann", upgrade))
		if d := read(t, answer).problem(t, c.status, kind); !strings.Contains(d.Detail, "token") {
			t.Errorf("nothing is said of the token: %s", d.Detail)
		}
		if got := g.counter(t, "restante_connect_refused_total", "reason", kind); got != 1 {
			t.Errorf("restante_connect_refused_total{reason=%q} is %v, want 1", kind, got)
		}
		if g.tokens.uses() != 0 {
			t.Errorf("%s: the token was used up", kind)
		}
		g.works(t)
	}
}

func TestConnectRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		path      string
		tokens    error
		connector error
		status    int
		kind      string
		reason    string
	}{
		{name: "no token", path: "/v1/connect", status: 401, kind: "unauthenticated", reason: "no-token"},
		{name: "empty token", path: "/ws?token=", status: 401, kind: "unauthenticated", reason: "no-token"},
		{name: "no token of ours", path: "/ws?token=stale-secret", status: 401, kind: "unauthenticated", reason: "unauthenticated"},
		{name: "tokens away", tokens: fmt.Errorf("redeem: %w", tokens.ErrUnavailable), status: 503, kind: "identity-unavailable", reason: "identity-unavailable"},
		{name: "broken", tokens: errors.New("secret-cause"), status: 500, kind: "internal", reason: "internal"},
		{name: "origin", connector: ws.ErrOrigin, status: 403, kind: "origin-not-allowed", reason: "origin-not-allowed"},
		{name: "sessions", connector: fmt.Errorf("open: %w", hub.ErrTooManySessions), status: 429, kind: "too-many-sessions", reason: "too-many-sessions"},
		{name: "draining", connector: hub.ErrDraining, status: 503, kind: "draining", reason: "draining"},
		{name: "log away", connector: fmt.Errorf("open: %w", events.ErrUnavailable), status: 503, kind: "unavailable", reason: "unavailable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, api.Config{})
			g.tokens.fail, g.connector.fail = c.tokens, c.connector
			path := c.path
			if path == "" {
				path = "/v1/connect?token=token-for-ann"
			}
			_, answer := dial(t, g, handshake(path, upgrade))
			r := read(t, answer)
			r.problem(t, c.status, c.kind)
			if c.status >= 429 && c.status != 500 && r.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
			if strings.Contains(string(r.body), "secret") {
				t.Errorf("shown: %s", r.body)
			}
			if got := g.counter(t, "restante_connect_refused_total", "reason", c.reason); got != 1 {
				t.Errorf("restante_connect_refused_total{reason=%q} is %v, want 1", c.reason, got)
			}
			out := g.output.String()
			if !strings.Contains(out, "problem="+c.kind) || strings.Contains(out, "stale-secret") || strings.Contains(out, "token-for-") {
				t.Errorf("log:\n%s", out)
			}
			g.works(t)
		})
	}
}

// The reason that a real token was rejected for is told in plain words.
func TestConnectTellsWhy(t *testing.T) {
	t.Parallel()
	keys, err := tokens.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.NewKeyring(keys)
	if err != nil {
		t.Fatal(err)
	}
	real := tokens.New(nil, ring, tokens.Config{}, newRegistry())
	_, rejected := real.Redeem(t.Context(), "not.a.token")
	if !errors.Is(rejected, tokens.ErrRejected) {
		t.Fatalf("Redeem: %v", rejected)
	}
	g := start(t, api.Config{})
	g.tokens.fail = rejected
	_, answer := dial(t, g, handshake("/v1/connect?token=not.a.token", upgrade))
	if d := read(t, answer).problem(t, 401, "unauthenticated"); !strings.Contains(d.Detail, "not a token of this gateway") {
		t.Errorf("%+v", d)
	}
	if got := g.counter(t, "restante_connect_refused_total", "reason", "token-malformed"); got != 1 {
		t.Errorf("not counted by its reason: %v", got)
	}
}

// One user's connects and tokens are bounded, and nobody else's with them.
func TestUsersAreLimited(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{UserTokens: 1, UserConnects: 1})
	for i := range 21 {
		r := g.do(t, "POST", "/v1/tokens", "", "Authorization", "Bearer id-token-of-ann")
		if i < 20 {
			if r.StatusCode != 200 {
				t.Fatalf("token %d: %d %s", i, r.StatusCode, r.body)
			}
			continue
		}
		if d := r.problem(t, 429, "rate-limited"); d.Limit != 1 || r.Header.Get("Retry-After") != "1" {
			t.Errorf("%+v, Retry-After %q", d, r.Header.Get("Retry-After"))
		}
	}
	for i := range 21 {
		_, answer := dial(t, g, handshake("/v1/connect?token=token-for-ann", upgrade))
		r := read(t, answer)
		if i < 20 {
			if r.StatusCode != 101 {
				t.Fatalf("connect %d: %d", i, r.StatusCode)
			}
			continue
		}
		r.problem(t, 429, "rate-limited")
	}
	_, answer := dial(t, g, handshake("/v1/connect?token=token-for-bob", upgrade))
	if r := read(t, answer); r.StatusCode != 101 {
		t.Errorf("bob: %d", r.StatusCode)
	}
	if n := g.counter(t, "restante_connect_refused_total", "reason", "rate-limited"); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
}
