package api_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"restante/internal/api"
	"restante/internal/origins"
	"restante/internal/tokens"
)

func TestPublisherAuth(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	const ann, team = `{"userId":"ann","message":1}`, `{"userId":"team-7","message":1}`
	for _, c := range []struct {
		name, authorization, body string
		status                    int
		kind                      string
	}{
		{"key", "Bearer " + publishKey, ann, 202, ""},
		{"scheme in any case", "bEaReR  " + publishKey, ann, 202, ""},
		{"access token", "Bearer access-token", ann, 202, ""},
		{"prefix kept", "Bearer " + teamKey, team, 202, ""},
		{"prefix left", "Bearer " + teamKey, ann, 403, "user-not-allowed"},
		{"prefix left in a list", "Bearer " + teamKey, `{"users":["ann"],"message":1}`, 403, "user-not-allowed"},
		{"prefix left in an array", "Bearer " + teamKey, "[" + ann + "]", 403, "user-not-allowed"},
		{"no scope", "Bearer " + readKey, ann, 403, "missing-scope"},
		{"nothing", "", ann, 401, "unauthenticated"},
		{"no scheme", publishKey, ann, 401, "unauthenticated"},
		{"other scheme", "Basic " + publishKey, ann, 401, "unauthenticated"},
		{"empty", "Bearer ", ann, 401, "unauthenticated"},
		{"unknown key", "Bearer rk_who_secret", ann, 401, "unauthenticated"},
		{"unknown token", "Bearer eyJhbGciOi.secret", ann, 401, "unauthenticated"},
		{"oversized", "Bearer " + strings.Repeat("s", 9000), ann, 401, "unauthenticated"},
		{"cannot be checked", "Bearer " + brokenKey, ann, 503, "identity-unavailable"},
	} {
		r := g.do(t, "POST", "/v1/messages", c.body, "Authorization", c.authorization)
		if c.status == 202 {
			if r.StatusCode != 202 {
				t.Errorf("%s: %d %s", c.name, r.StatusCode, r.body)
			}
			continue
		}
		d := r.problem(t, c.status, c.kind)
		if strings.Contains(d.Detail, "secret") {
			t.Errorf("%s: the credential is shown: %s", c.name, r.body)
		}
		if c.status == 401 && !strings.HasPrefix(r.Header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("%s: WWW-Authenticate %q", c.name, r.Header.Get("WWW-Authenticate"))
		}
		if c.status == 503 && r.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", c.name)
		}
	}
	out := g.output.String()
	if strings.Contains(out, "secret") {
		t.Errorf("a credential was logged:\n%s", out)
	}
	if !strings.Contains(out, "request denied") || !strings.Contains(out, "problem=missing-scope") {
		t.Errorf("denials were not logged:\n%s", out)
	}
	// A mixed array: what the key does not reach fails alone.
	r := g.do(t, "POST", "/v1/messages", "["+ann+","+team+"]", "Authorization", "Bearer "+teamKey)
	if got := r.results(t); r.StatusCode != 202 || got[0].Problem.Status != 403 || got[1].Seq == 0 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if m := g.log.last(t); m.Publisher != "team" {
		t.Errorf("publisher %q", m.Publisher)
	}
	g.do(t, "POST", "/v1/messages", ann, "Authorization", "Bearer access-token").receipt(t)
	if m := g.log.last(t); m.Publisher != "oidc:billing" {
		t.Errorf("publisher %q", m.Publisher)
	}
}

// A flood of one failure does not flood the log.
func TestLogIsQuiet(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	for range 200 {
		g.post(t, `{"userId":"ann","message":1}`, "Authorization", "Bearer rk_wrong").problem(t, 401, "unauthenticated")
	}
	if n := strings.Count(g.output.String(), "request denied"); n == 0 || n > 60 {
		t.Errorf("200 denials wrote %d lines", n)
	}
}

func TestReadUser(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	g.post(t, `{"userId":"team-a/b","message":1}`)
	g.post(t, `{"userId":"..","message":1}`)
	read := []string{"Authorization", "Bearer " + readKey}

	r := g.do(t, "GET", "/v1/users/team-a%2Fb", "", read...)
	want := `{"userId":"team-a/b","connected":true,"pending":1,"head":1,"acked":0,"sessions":[` +
		`{"session":"s1","replica":"r1","transport":"plain","connectedAt":"2026-11-23T10:00:00.123Z"},` +
		`{"session":"s2","replica":"r2","transport":"restante.v1","connectedAt":"2026-11-23T10:00:00.123Z"}]}` + "\n"
	if string(r.body) != want || r.StatusCode != 200 || !json.Valid(r.body) {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	r = g.do(t, "GET", "/v1/users/team-a%2Fb/messages/1", "", read...)
	want = `{"userId":"team-a/b","seq":1,"state":"accepted","acceptedAt":"2026-11-23T10:00:00.123Z","expiresAt":"2026-11-23T11:00:00.123Z"}` + "\n"
	if string(r.body) != want || r.StatusCode != 200 || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	g.log.mu.Lock()
	g.log.expired = true
	g.log.mu.Unlock()
	r = g.do(t, "GET", "/v1/users/team-a%2Fb/messages/1", "", read...)
	if want := `{"userId":"team-a/b","seq":1,"state":"expired"}` + "\n"; string(r.body) != want || r.StatusCode != 200 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	if r := g.do(t, "GET", "/v1/users/%2E%2E/messages/1", "", read...); r.StatusCode != 200 {
		t.Errorf("user ..: %d %s", r.StatusCode, r.body)
	}
	if r := g.do(t, "HEAD", "/v1/users/team-a%2Fb", "", read...); r.StatusCode != 200 || len(r.body) != 0 {
		t.Errorf("HEAD: %d %s", r.StatusCode, r.body)
	}

	g.do(t, "GET", "/v1/users/nobody", "", read...).problem(t, 404, "unknown-user")
	g.do(t, "GET", "/v1/users/team-a%2Fb/messages/2", "", read...).problem(t, 404, "unknown-message")
	for _, seq := range []string{"0", "-1", "one", "1.0", "99999999999999999999"} {
		g.do(t, "GET", "/v1/users/ann/messages/"+seq, "", read...).problem(t, 400, "invalid-request")
	}
	for _, user := range []string{"a%00b", "a%0Ab", "%FF", strings.Repeat("u", 257)} {
		g.do(t, "GET", "/v1/users/"+user, "", read...).problem(t, 400, "invalid-request")
	}
	g.do(t, "GET", "/v1/users/ann", "").problem(t, 401, "unauthenticated")
	g.do(t, "GET", "/v1/users/ann", "", "Authorization", "Bearer access-token").problem(t, 403, "missing-scope")
	g.do(t, "GET", "/v1/users/ann", "", "Authorization", "Bearer "+teamKey).problem(t, 403, "user-not-allowed")
}

func TestTokens(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	for _, c := range []struct {
		method, path, authorization string
		status                      int
		kind                        string
	}{
		{"POST", "/v1/tokens", "Bearer id-token-of-ann", 200, ""},
		{"GET", "/tokens", "id-token-of-ann", 200, ""}, // as the seed's clients do
		{"GET", "/tokens", "Bearer id-token-of-ann", 200, ""},
		{"POST", "/v1/tokens", "id-token-of-ann", 401, "unauthenticated"},
		{"POST", "/v1/tokens", "", 401, "unauthenticated"},
		{"GET", "/tokens", "", 401, "unauthenticated"},
		{"GET", "/tokens", "Basic id-token-of-ann", 401, "unauthenticated"},
		{"POST", "/v1/tokens", "Bearer id-token-of-eve", 401, "unauthenticated"},
		{"POST", "/v1/tokens", "Bearer id-token-while-issuer-is-down", 503, "identity-unavailable"},
	} {
		r := g.do(t, c.method, c.path, "", "Authorization", c.authorization)
		if r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s %s: Cache-Control %q", c.method, c.path, r.Header.Get("Cache-Control"))
		}
		if c.status != 200 {
			if r := r.problem(t, c.status, c.kind); strings.Contains(r.Detail, "id-token") {
				t.Errorf("the ID token is shown: %s", r.Detail)
			}
			continue
		}
		if want := `{"token":"token-for-ann-Ann","expiresAt":"2026-11-23T10:00:00.123Z"}` + "\n"; r.StatusCode != 200 || string(r.body) != want {
			t.Errorf("%s %s: %d %s", c.method, c.path, r.StatusCode, r.body)
		}
	}
	g.tokens.fail = tokens.ErrUnavailable
	r := g.do(t, "POST", "/v1/tokens", "", "Authorization", "Bearer id-token-of-ann")
	r.problem(t, 503, "identity-unavailable")
	if r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	if out := g.output.String(); strings.Contains(out, "id-token-") || strings.Contains(out, "token-for-") {
		t.Errorf("a token was logged:\n%s", out)
	}
}

func TestCORS(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.com"
	// A page with tracing sends traceparent with every request.
	preflight := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,traceparent"}
	for _, c := range []struct {
		name    string
		allowed []string
		origin  string
		want    string
	}{
		{"none allowed", nil, app, ""},
		{"allowed", []string{"https://other.example.com", app}, app, app},
		{"another", []string{app}, "https://evil.example.com", ""},
		{"suffix", []string{app}, app + ".evil.example", ""},
		{"other scheme", []string{app}, "http://app.example.com", ""},
		{"null", []string{app}, "null", ""},
		{"all", []string{"*"}, app, "*"},
		{"wildcard", []string{"https://*.example.com"}, app, app},
		{"trailing slash in the configuration", []string{app + "/"}, app, app},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			allowed, err := origins.Parse(c.allowed)
			if err != nil {
				t.Fatal(err)
			}
			g := start(t, api.Config{Origins: allowed})
			g.post(t, `{"userId":"ann","message":1}`)
			for _, path := range []string{"/v1/tokens", "/tokens", "/v1/users/ann", "/v1/users/ann/messages/1"} {
				r := g.do(t, "OPTIONS", path, "", append([]string{"Origin", c.origin}, preflight...)...)
				if got := r.Header.Get("Access-Control-Allow-Origin"); r.StatusCode != 204 || got != c.want {
					t.Errorf("OPTIONS %s: %d, origin %q, want %q", path, r.StatusCode, got, c.want)
				}
				if got := r.Header.Get("Access-Control-Allow-Headers"); (got != "") != (c.want != "") || c.want != "" && got != "authorization,traceparent" {
					t.Errorf("OPTIONS %s: headers %q", path, got)
				}
			}
			for _, r := range []reply{
				g.do(t, "POST", "/v1/tokens", "", "Origin", c.origin, "Authorization", "Bearer id-token-of-ann"),
				g.do(t, "POST", "/v1/tokens", "", "Origin", c.origin), // a page has to be able to read the problem
				g.do(t, "GET", "/v1/users/ann", "", "Origin", c.origin, "Authorization", "Bearer "+readKey),
			} {
				if got := r.Header.Values("Access-Control-Allow-Origin"); strings.Join(got, ",") != c.want {
					t.Errorf("%s: origin %q, want %q", r.Request.URL.Path, got, c.want)
				}
				if c.want == app && r.Header.Get("Vary") != "Origin" {
					t.Errorf("%s: Vary %q", r.Request.URL.Path, r.Header.Get("Vary"))
				}
			}
			// Pages have no business with these.
			for _, path := range []string{"/v1/messages", "/message"} {
				r := g.do(t, "OPTIONS", path, "", append([]string{"Origin", c.origin}, preflight...)...)
				if r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("OPTIONS %s: %d %v", path, r.StatusCode, r.Header)
				}
			}
		})
	}
}
