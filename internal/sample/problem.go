package sample

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
)

// problem is an RFC 9457 problem document. Its detail is a sentence for the
// person who wrote the request; what went wrong inside goes to the log.
type problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Limit  int64  `json:"limit,omitempty"` // the limit that was exceeded, in the unit the detail names
}

func newProblem(status int, detail string) *problem {
	return &problem{Title: http.StatusText(status), Status: status, Detail: detail}
}

func (p *problem) write(w http.ResponseWriter) {
	h := w.Header()
	switch p.Status {
	case http.StatusServiceUnavailable:
		// Spread over a few seconds, so that the refused do not come back as one.
		h.Set("Retry-After", strconv.Itoa(2+rand.IntN(6)))
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="restante sample"`)
	}
	writeJSON(w, p.Status, "application/problem+json", p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client has gone: nobody to tell
}
