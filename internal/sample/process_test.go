package sample

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestBadRequestsAreExplained(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	stop := b.run(t)
	defer stop()
	ada := map[string]string{"Authorization": "ada-token", "Content-Type": "application/json"}
	with := func(name, value string) map[string]string {
		h := map[string]string{"Authorization": "ada-token", "Content-Type": "application/json"}
		h[name] = value
		return h
	}
	for _, c := range []struct {
		name, method, body string
		header             map[string]string
		status             int
		says               string
	}{
		{"no token", "POST", `{}`, map[string]string{"Content-Type": "application/json"}, 401, "ID token"},
		{"empty bearer", "POST", `{}`, with("Authorization", "Bearer "), 401, "ID token"},
		{"bad token", "POST", `{}`, with("Authorization", "Bearer nobody"), 401, "Sign in again"},
		{"long token", "POST", `{}`, with("Authorization", strings.Repeat("a", 20<<10)), 401, "too long"},
		{"issuer away", "POST", `{}`, with("Authorization", "away"), 503, "identity provider"},
		{"method", "GET", ``, ada, 405, "POST"},
		{"content type", "POST", `{}`, with("Content-Type", "text/plain"), 415, "application/json"},
		{"empty", "POST", ``, ada, 400, "empty"},
		{"not JSON", "POST", `message=x`, ada, 400, "not JSON"},
		{"cut off", "POST", `{"message":"x"`, ada, 400, "too early"},
		{"array", "POST", `[1]`, ada, 400, "not a JSON object"},
		{"null", "POST", `null`, ada, 422, "missing"},
		{"more", "POST", `{"message":"x"} {}`, ada, 400, "after the JSON"},
		{"unknown field", "POST", `{"message":"x","delay":3}`, ada, 400, `"delay"`},
		{"wrong type", "POST", `{"message":17}`, ada, 400, `"message" has the wrong type`},
		{"wait in words", "POST", `{"message":"x","wait":"20"}`, ada, 400, `"wait" has the wrong type`},
		{"bad UTF-8", "POST", "{\"message\":\"\xff\"}", ada, 400, "UTF-8"},
		{"no message", "POST", `{"wait":3}`, ada, 422, `"message" is missing`},
		{"too long a wait", "POST", `{"message":"x","wait":901}`, ada, 422, "900"},
		{"negative wait", "POST", `{"message":"x","wait":-1}`, ada, 422, "900"},
		{"huge wait", "POST", `{"message":"x","wait":1e300}`, ada, 422, "900"},
		{"other user", "POST", `{"userId":"bob-id","message":"x"}`, ada, 403, "own"},
		{"empty user", "POST", `{"userId":"","message":"x"}`, ada, 403, "own"},
		{"message of 64 KiB and more", "POST", fmt.Sprintf(`{"message":%q}`, strings.Repeat("a", MaxMessage)), ada, 413, "65536"},
		{"10 MB", "POST", fmt.Sprintf(`{"message":%q}`, strings.Repeat("a", 10<<20)), ada, 413, "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := b.do(c.method, c.body, c.header)
			if res.Code != c.status {
				t.Errorf("status %d, want %d: %s", res.Code, c.status, res.Body)
			}
			var doc problem
			if err := json.Unmarshal(res.Body.Bytes(), &doc); err != nil {
				t.Fatalf("not a problem document: %s", res.Body)
			}
			if !strings.Contains(doc.Detail, c.says) || doc.Status != c.status || doc.Title == "" {
				t.Errorf("problem %s does not say %q", res.Body, c.says)
			}
			if ct := res.Header().Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("content type %q", ct)
			}
			if c.status == 503 && res.Header().Get("Retry-After") == "" {
				t.Error("503 without Retry-After")
			}
		})
	}
	// The largest message that fits, escaped as badly as can be, is accepted.
	body := `{"message":"` + strings.Repeat(`\u0061`, MaxMessage-2) + `"}`
	if res := b.process(body); res.Code != 202 {
		t.Errorf("a message of exactly the limit: %d %s", res.Code, res.Body)
	}
	// And the seed's own request, whole.
	if res := b.process(`{"wait":0,"userId":"ada-id","message":"Serverless is cool!"}`); res.Code != 202 {
		t.Errorf("the seed's request: %d %s", res.Code, res.Body)
	}
}

func TestCrossOrigin(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(c *Config) { c.AllowedOrigins = []string{"https://app.example"} })
	preflight := func(origin string) *httptest.ResponseRecorder {
		return b.do("OPTIONS", "", map[string]string{"Origin": origin, "Access-Control-Request-Method": "POST"})
	}
	if res := preflight("https://app.example"); res.Code != 204 ||
		res.Header().Get("Access-Control-Allow-Origin") != "https://app.example" ||
		!strings.Contains(res.Header().Get("Access-Control-Allow-Headers"), "Authorization") {
		t.Errorf("allowed origin: %d %v", res.Code, res.Header())
	}
	if res := preflight("https://evil.example"); res.Code != 405 || res.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("foreign origin: %d %v", res.Code, res.Header())
	}
}

func TestConfigIsCheckedWhole(t *testing.T) {
	t.Parallel()
	_, err := New(Config{GatewayURL: "gateway", APIKey: "a key\n", Page: Page{Issuer: "http://i.example", GatewayURL: "ftp://x"}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{"gateway URL", "white space", "verifier", "client id", "ftp://x"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error does not mention %q: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "a key") {
		t.Error("the error shows the key")
	}
}
