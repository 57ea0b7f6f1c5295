package api

import (
	"net/http"
	"strings"

	"restante/internal/origins"
)

// cors answers browsers' questions about foreign origins. Credentials travel in
// Authorization, never in cookies, so an allowed origin gains nothing but to
// read answers to what it could have sent anyway.
type cors struct{ allowed origins.Set }

// headers lets an allowed origin read the answer. Any other gets nothing.
func (c *cors) headers(h http.Header, r *http.Request) bool {
	if c.allowed.Empty() {
		return false
	}
	if !c.allowed.Any() {
		h.Add("Vary", "Origin")
	}
	origin := r.Header.Get("Origin")
	if origin == "" || !c.allowed.Allows(origin, r.Host) {
		return false
	}
	if c.allowed.Any() {
		origin = "*"
	}
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate")
	return true
}

// preflight answers OPTIONS: with what may be sent, or, to other origins,
// without a word about it.
func (c *cors) preflight(x *exchange, r *http.Request, allow string) {
	h := x.Header()
	h.Set("Allow", allow)
	if c.headers(h, r) {
		h.Set("Access-Control-Allow-Methods", allow)
		h.Add("Vary", "Access-Control-Request-Headers")
		h.Set("Access-Control-Allow-Headers", askedHeaders(r.Header))
		h.Set("Access-Control-Max-Age", "600")
	}
	x.WriteHeader(http.StatusNoContent)
}

// askedHeaders returns the headers that a page wants to send. All may come: a page
// with tracing sends traceparent and more with each request, and what the gateway
// does not know it ignores. A list that is no list is not repeated.
func askedHeaders(h http.Header) string {
	const usual, longest = "Authorization, Content-Type", 1 << 10
	asked := strings.Join(h.Values("Access-Control-Request-Headers"), ",")
	if asked == "" || len(asked) > longest {
		return usual
	}
	for i := range len(asked) {
		c := asked[i]
		token := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
		if !token && c != ',' && c != ' ' {
			return usual
		}
	}
	return asked
}
