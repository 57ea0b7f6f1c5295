package api_test

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"restante/internal/api"
)

// FuzzPostMessage: whatever the body is, there is no panic, the status is one
// that input can deserve, the answer is JSON, and only what encoding/json takes
// for valid is appended.
func FuzzPostMessage(f *testing.F) {
	for _, body := range []string{
		`{"userId":"ann","message":1}`, `[{"userId":"ann","message":"x"},{"userId":"","message":2}]`,
		`{"users":["ann","bob","ann"],"message":{"a":[null]},"type":"t","ttl":9}`, `[]`, `[[]]`, `[null,1,"",{}]`,
		`{"users":[],"message":1}`, `{"users":[1,"a",null],"message":1}`, `{"userId":"ann","message":null}`,
		`{"users":null,"message":1}`, `{"userId":"\u0000","message":1}`, "\xff", "", "{", `{"a":1}`,
		`[{"userId":"ann","message":1,"idempotencyKey":"k"},{"userId":"ann","message":2,"idempotencyKey":"k"}]`,
	} {
		f.Add(body, "", "application/json")
	}
	f.Add(`{"userId":"ann","message":1}`, "key", "text/plain")
	f.Fuzz(func(t *testing.T, body, key, contentType string) {
		g := newEdge(api.Config{MaxMessageBytes: 1 << 10, MaxBodyBytes: 1 << 16}, slog.LevelError)
		handler := g.api.Handler()
		r := httptest.NewRequest("POST", "/v1/messages", strings.NewReader(body))
		r.Header["Authorization"] = []string{"Bearer " + publishKey}
		r.Header["Content-Type"] = []string{contentType}
		if key != "" {
			r.Header["Idempotency-Key"] = []string{key}
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if !json.Valid(w.Body.Bytes()) {
			t.Fatalf("the answer is not JSON: %q", w.Body)
		}
		appended := g.log.count()
		switch w.Code {
		case 202:
			if appended == 0 || !json.Valid([]byte(body)) || !utf8.ValidString(body) {
				t.Fatalf("202, with %d messages appended of %q", appended, body)
			}
		case 400, 409, 413, 415, 422:
			if appended != 0 {
				t.Fatalf("%d, and %d messages appended of %q", w.Code, appended, body)
			}
		default:
			t.Fatalf("status %d for %q: %s", w.Code, body, w.Body)
		}
		for _, m := range g.log.appended {
			if !json.Valid(m.Payload) || !strings.Contains(body, string(m.Payload)) || m.UserID == "" {
				t.Fatalf("appended %+v of %q", m, body)
			}
		}
	})
}
