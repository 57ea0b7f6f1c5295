package api

import (
	"net/http"
	"slices"
	"strings"
)

// cors answers browsers' questions about foreign origins. Credentials travel in
// Authorization, never in cookies, so an allowed origin gains nothing but to
// read answers to what it could have sent anyway.
type cors struct {
	origins []string // exact, lower case
	any     bool     // "*" was configured
}

func newCORS(allowed []string) cors {
	c := cors{}
	for _, origin := range allowed {
		if origin == "*" {
			c.any = true
			continue
		}
		c.origins = append(c.origins, strings.ToLower(strings.TrimSuffix(origin, "/")))
	}
	return c
}

// headers lets an allowed origin read the answer. Any other gets nothing.
func (c *cors) headers(h, request http.Header) bool {
	if !c.any && len(c.origins) == 0 {
		return false
	}
	if !c.any {
		h.Add("Vary", "Origin")
	}
	origin := request.Get("Origin")
	switch {
	case origin == "":
		return false
	case c.any:
		h.Set("Access-Control-Allow-Origin", "*")
	case slices.Contains(c.origins, strings.ToLower(origin)):
		h.Set("Access-Control-Allow-Origin", origin)
	default:
		return false
	}
	h.Set("Access-Control-Expose-Headers", "Retry-After, WWW-Authenticate")
	return true
}

// preflight answers OPTIONS: with what may be sent, or, to other origins,
// without a word about it.
func (c *cors) preflight(x *exchange, r *http.Request, allow string) {
	h := x.Header()
	h.Set("Allow", allow)
	if c.headers(h, r.Header) {
		h.Set("Access-Control-Allow-Methods", allow)
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
		h.Set("Access-Control-Max-Age", "600")
	}
	x.WriteHeader(http.StatusNoContent)
}
