package devstack_test

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/oauth2"

	"restante/internal/devstack"
)

func TestIssuerAuthorizeRefusals(t *testing.T) {
	t.Parallel()
	is := startIssuer(t, t.TempDir())
	good := func() url.Values {
		return url.Values{
			"client_id": {clientID}, "redirect_uri": {redirectURI}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"},
			"code_challenge": {oauth2.S256ChallengeFromVerifier(oauth2.GenerateVerifier())}, "code_challenge_method": {"S256"},
		}
	}
	for _, test := range []struct {
		name, param, value string
		want               string // the error sent to the client; "page" if nothing may be sent there
	}{
		{"unknown client", "client_id", "stranger", "page"},
		{"foreign host", "redirect_uri", "https://evil.example/cb", "page"},
		{"host that looks like ours", "redirect_uri", "http://127.0.0.1.evil.example/", "page"},
		{"user part", "redirect_uri", "http://127.0.0.1:80@evil.example/", "page"},
		{"user part on loopback", "redirect_uri", "http://evil@127.0.0.1/", "page"},
		{"other scheme", "redirect_uri", "javascript://127.0.0.1/%0aalert(1)", "page"},
		{"fragment", "redirect_uri", redirectURI + "#here", "page"},
		{"empty fragment", "redirect_uri", redirectURI + "#", "page"},
		{"no redirect URI", "redirect_uri", "", "page"},
		{"implicit flow", "response_type", "token", "unsupported_response_type"},
		{"no challenge", "code_challenge", "", "invalid_request"},
		{"plain challenge", "code_challenge_method", "plain", "invalid_request"},
		{"no openid", "scope", "profile", "invalid_scope"},
		{"prompt none", "prompt", "none", "login_required"},
		{"request object", "request", "x", "request_not_supported"},
		{"fragment mode", "response_mode", "fragment", "invalid_request"},
		{"long nonce", "nonce", strings.Repeat("n", 2000), "invalid_request"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			form := good()
			form.Set(test.param, test.value)
			for _, path := range []string{"/authorize", "/login"} {
				if path == "/login" && (test.param == "response_type" || test.param == "code_challenge_method") {
					continue // the form does not carry these
				}
				response, body := is.post(t, path, "application/x-www-form-urlencoded", form.Encode())
				if test.want == "page" {
					if response.StatusCode != http.StatusBadRequest || response.Header.Get("Location") != "" || !strings.Contains(body, "Cannot sign in") {
						t.Errorf("%s: %d, Location %q", path, response.StatusCode, response.Header.Get("Location"))
					}
					continue
				}
				if answer := codeFrom(t, response); answer.Get("error") != test.want || answer.Get("state") != "s" || answer.Has("code") {
					t.Errorf("%s: answer %v, want error %s", path, answer, test.want)
				}
			}
		})
	}
	for _, uri := range []string{"http://localhost:1/cb", "http://[::1]:8082/", "https://127.9.9.9/x?y=z"} {
		form := good()
		form.Set("redirect_uri", uri)
		if response, _ := is.post(t, "/authorize", "application/x-www-form-urlencoded", form.Encode()); response.StatusCode != http.StatusOK {
			t.Errorf("redirect URI %s: %d", uri, response.StatusCode)
		}
	}
}

func TestIssuerLoginPageIsGuarded(t *testing.T) {
	t.Parallel()
	is := startIssuer(t, t.TempDir())
	_, client, _ := is.provider(t)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, client.AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, body := is.do(t, r)
	policy := response.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self' http://127.0.0.1:8082"} {
		if !strings.Contains(policy, want) {
			t.Errorf("policy %q lacks %q", policy, want)
		}
	}
	if regexp.MustCompile(`https?://[^1]`).MatchString(body) {
		t.Errorf("the page refers to somewhere else:\n%s", body)
	}
	// A page of another origin sends the form.
	r, err = http.NewRequestWithContext(t.Context(), http.MethodPost, is.url+"/login", strings.NewReader("action=create"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	if response, _ := is.do(t, r); response.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign form: %d, want 403", response.StatusCode)
	}
}

func TestIssuerTokenEndpointErrors(t *testing.T) {
	t.Parallel()
	is := startIssuer(t, t.TempDir())
	const form = "application/x-www-form-urlencoded"
	for _, test := range []struct {
		name, contentType, body string
		status                  int
		code                    string
	}{
		{"JSON", "application/json", `{}`, 400, "invalid_request"},
		{"no client", form, "grant_type=password", 401, "invalid_client"},
		{"no grant", form, "client_id=restante", 400, "unsupported_grant_type"},
		{"other grant", form, "client_id=restante&grant_type=client_credentials", 400, "unsupported_grant_type"},
		{"twice", form, "client_id=restante&client_id=restante&grant_type=password", 400, "invalid_request"},
		{"no code", form, "client_id=restante&grant_type=authorization_code", 400, "invalid_grant"},
		{"wrong scope", form, "client_id=restante&grant_type=password&scope=email", 400, "invalid_scope"},
		{"huge", form, "client_id=" + strings.Repeat("x", 100<<10), 400, "invalid_request"},
	} {
		response, body := is.post(t, "/token", test.contentType, test.body)
		if response.StatusCode != test.status || !strings.Contains(body, `"error":"`+test.code+`"`) || response.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s, want %d %s", test.name, response.StatusCode, body, test.status, test.code)
		}
	}
}

func TestIssuerCrossOrigin(t *testing.T) {
	t.Parallel()
	is := startIssuer(t, t.TempDir())
	for path, method := range map[string]string{"/token": "POST", "/jwks": "GET", "/.well-known/openid-configuration": "GET", "/userinfo": "GET"} {
		for origin, want := range map[string]string{"http://127.0.0.1:8082": "http://127.0.0.1:8082", "https://evil.example": "", "null": ""} {
			for _, send := range []string{"OPTIONS", method} {
				r, err := http.NewRequestWithContext(t.Context(), send, is.url+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Origin", origin)
				response, _ := is.do(t, r)
				if got := response.Header.Get("Access-Control-Allow-Origin"); got != want {
					t.Errorf("%s %s from %s: allowed %q, want %q", send, path, origin, got, want)
				}
				if send == "OPTIONS" && (response.StatusCode != http.StatusNoContent || (want != "") != (response.Header.Get("Access-Control-Allow-Methods") == method)) {
					t.Errorf("preflight of %s from %s: %d %v", path, origin, response.StatusCode, response.Header)
				}
			}
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), "DELETE", is.url+"/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	if response, _ := is.do(t, r); response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") != "POST, OPTIONS" {
		t.Errorf("DELETE /token: %d, Allow %q", response.StatusCode, response.Header.Get("Allow"))
	}
}

func TestNewIssuerRefuses(t *testing.T) {
	t.Parallel()
	good := func() devstack.IssuerConfig {
		return devstack.IssuerConfig{URL: "http://127.0.0.1:8081", Dir: t.TempDir(), ClientID: clientID}
	}
	for name, spoil := range map[string]func(*devstack.IssuerConfig){
		"trailing slash": func(c *devstack.IssuerConfig) { c.URL += "/" },
		"no scheme":      func(c *devstack.IssuerConfig) { c.URL = "127.0.0.1:8081" },
		"no client":      func(c *devstack.IssuerConfig) { c.ClientID = "" },
		"damaged key": func(c *devstack.IssuerConfig) {
			os.WriteFile(filepath.Join(c.Dir, "issuer-key.pem"), []byte("no key"), 0o600)
		},
		"damaged users": func(c *devstack.IssuerConfig) {
			os.WriteFile(filepath.Join(c.Dir, "issuer-users.json"), []byte(`[{"username":`), 0o600)
		},
		"unknown hash": func(c *devstack.IssuerConfig) {
			os.WriteFile(filepath.Join(c.Dir, "issuer-users.json"), []byte(`[{"username":"ann","algorithm":"md5"}]`), 0o600)
		},
	} {
		config := good()
		spoil(&config)
		if _, err := devstack.NewIssuer(config); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := devstack.NewIssuer(good()); err != nil {
		t.Error(err)
	}
}
