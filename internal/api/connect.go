package api

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"restante/internal/events"
	"restante/internal/hub"
	"restante/internal/tokens"
	"restante/internal/ws"
)

// connect uses the request's token up and hands the connection to the WebSocket
// transport. A browser is shown a failed upgrade and nothing else, so every
// refusal is counted and logged here.
func (a *API) connect(x *exchange, r *http.Request) *problem {
	// First, for a request that is refused whatever its token says must not cost its
	// sender the token.
	p := upgradable(r)
	if p == nil {
		p = a.admitted(r)
	}
	if p != nil {
		a.metrics.refused.WithLabelValues(p.name).Inc()
		return p
	}
	token := connectToken(r)
	if token == "" {
		a.metrics.refused.WithLabelValues("no-token").Inc()
		return &problem{kind: unauthenticated,
			detail: "A token is missing: ?token=<token>, or restante.token.<token> in Sec-WebSocket-Protocol. Get one from POST /v1/tokens."}
	}
	claims, err := a.tokens.Redeem(r.Context(), token)
	if err != nil {
		p := tokenProblem(r, err)
		reason := p.name
		if why := tokens.ReasonOf(err); why != "" {
			reason = "token-" + string(why)
		}
		a.metrics.refused.WithLabelValues(reason).Inc()
		return p
	}
	if p := a.connects.check(claims.UserID, "The token is used up: get a new one and connect after the time in Retry-After."); p != nil {
		a.metrics.refused.WithLabelValues(p.name).Inc()
		return p
	}
	if err := a.connector.Serve(x, r, claims.UserID); err != nil {
		p := connectFailed(r, err)
		a.metrics.refused.WithLabelValues(p.name).Inc()
		return p
	}
	return nil
}

// admitted reports what the connector refuses without knowing whose request it is.
func (a *API) admitted(r *http.Request) *problem {
	err := a.connector.Admits(r)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hub.ErrDraining):
		return &problem{kind: draining, cause: err,
			detail: "This replica is being stopped. Connect again with the same token; another replica answers."}
	}
	p := connectFailed(r, err)
	p.detail += " The token is not used up."
	return p
}

// connectFailed translates the refusals of the transport and the hub.
func connectFailed(r *http.Request, err error) *problem {
	switch {
	case errors.Is(err, ws.ErrOrigin):
		return &problem{kind: originNotAllowed, cause: err,
			detail: "Pages of this origin may not connect. The operator can allow it with -allowed-origins."}
	case errors.Is(err, hub.ErrTooManySessions):
		return &problem{kind: tooManySessions, cause: err,
			detail: "This user has too many open connections. Close one, then get a new token and connect."}
	case errors.Is(err, hub.ErrDraining):
		return &problem{kind: draining, cause: err,
			detail: "This replica is being stopped. Get a new token and connect again; another replica answers."}
	case errors.Is(err, events.ErrUnavailable), r.Context().Err() != nil:
		return &problem{kind: unavailable, cause: err,
			detail: "The event log cannot be reached. Get a new token and connect again after the time in Retry-After."}
	}
	return &problem{kind: internalError, detail: internalDetail, cause: err}
}

// upgradable reports what keeps a request from becoming a WebSocket (RFC 6455,
// section 4.2.1).
func upgradable(r *http.Request) *problem {
	h := r.Header
	switch {
	case !r.ProtoAtLeast(1, 1) || r.ProtoMajor != 1 || !hasToken(h["Connection"], "upgrade") || !hasToken(h["Upgrade"], "websocket"):
		return &problem{kind: upgradeRequired, detail: "This path speaks WebSocket: open it with a WebSocket client, over HTTP/1.1. The token is not used up."}
	case h.Get("Sec-WebSocket-Version") != "13":
		return &problem{kind: upgradeRequired, detail: "Only version 13 of the WebSocket protocol is spoken here. The token is not used up."}
	}
	if key, err := base64.StdEncoding.DecodeString(h.Get("Sec-WebSocket-Key")); err != nil || len(key) != 16 {
		return &problem{kind: invalidRequest, detail: "Sec-WebSocket-Key has to be 16 bytes in base64. The token is not used up."}
	}
	return nil
}

// hasToken looks for an item in a comma-separated header.
func hasToken(values []string, token string) bool {
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// connectToken returns the token of the URL or of the subprotocols, "" for none.
func connectToken(r *http.Request) string {
	if token := r.URL.Query().Get("token"); token != "" {
		return token
	}
	for _, value := range r.Header["Sec-Websocket-Protocol"] {
		for item := range strings.SplitSeq(value, ",") {
			if token, ok := strings.CutPrefix(strings.TrimSpace(item), ws.TokenProtocol); ok {
				return token
			}
		}
	}
	return ""
}
