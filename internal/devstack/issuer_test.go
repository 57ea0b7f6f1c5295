package devstack_test

import (
	"bytes"
	"context"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"restante/internal/devstack"
)

const (
	clientID    = "restante"
	redirectURI = "http://127.0.0.1:8082/callback"
	goodWord    = "Correct-horse1"
)

// running is an issuer on a real socket, and a browser that follows no redirect.
type running struct {
	url     string
	dir     string
	log     *bytes.Buffer
	browser *http.Client
}

func startIssuer(t *testing.T, dir string) *running {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	is := &running{url: "http://" + server.Listener.Addr().String(), dir: dir, log: new(bytes.Buffer)}
	issuer, err := devstack.NewIssuer(devstack.IssuerConfig{
		URL: is.url, Dir: dir, ClientID: clientID,
		AllowedOrigins: []string{"http://127.0.0.1:8082"},
		Logger:         slog.New(slog.NewTextHandler(&lockedWriter{w: is.log}, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = issuer.Handler()
	server.Start()
	t.Cleanup(server.Close)
	is.browser = server.Client()
	is.browser.Timeout = 30 * time.Second
	is.browser.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return is
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (is *running) do(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := is.browser.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

func (is *running) post(t *testing.T, path, contentType, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, is.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	return is.do(t, r)
}

func (is *running) createUser(t *testing.T, name, password string) (status int, body string) {
	t.Helper()
	text, err := json.Marshal(map[string]string{"username": name, "password": password})
	if err != nil {
		t.Fatal(err)
	}
	response, body := is.post(t, "/users", "application/json", string(text))
	return response.StatusCode, body
}

// provider is what a relying party sees, through the library the gateway uses.
func (is *running) provider(t *testing.T) (*oidc.Provider, *oauth2.Config, context.Context) {
	t.Helper()
	ctx := oidc.ClientContext(t.Context(), is.browser)
	provider, err := oidc.NewProvider(ctx, is.url)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	return provider, &oauth2.Config{ClientID: clientID, Endpoint: endpoint, RedirectURL: redirectURI, Scopes: []string{"openid", "profile"}}, ctx
}

var hiddenField = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`)

// signIn does what a person does: opens the page, fills in the form, sends it.
func (is *running) signIn(t *testing.T, authURL, name, password, action string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, authURL, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, body := is.do(t, r)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("login page: %d\n%s", response.StatusCode, body)
	}
	form := url.Values{"username": {name}, "password": {password}, "action": {action}}
	for _, field := range hiddenField.FindAllStringSubmatch(body, -1) {
		form.Set(field[1], html.UnescapeString(field[2]))
	}
	return is.post(t, "/login", "application/x-www-form-urlencoded", form.Encode())
}

// codeFrom returns the code of a redirect back to the application.
func codeFrom(t *testing.T, response *http.Response) url.Values {
	t.Helper()
	if response.StatusCode != http.StatusSeeOther || !strings.HasPrefix(response.Header.Get("Location"), redirectURI+"?") {
		t.Fatalf("want a redirect to %s, got %d %s", redirectURI, response.StatusCode, response.Header.Get("Location"))
	}
	location, err := url.Parse(response.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return location.Query()
}

func TestIssuerCodeFlow(t *testing.T) {
	t.Parallel()
	is := startIssuer(t, t.TempDir())
	provider, client, ctx := is.provider(t)
	verifier := oauth2.GenerateVerifier()
	const name, state, nonce = `zoë "<b>`, `a state&"`, "a nonce"
	authURL := client.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier), oidc.Nonce(nonce))

	response, _ := is.signIn(t, authURL, name, goodWord, "create")
	answer := codeFrom(t, response)
	if answer.Get("state") != state || answer.Get("iss") != is.url {
		t.Errorf("answer %v: want state %q and the issuer", answer, state)
	}
	token, err := client.Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(token.Expiry); left < 59*time.Minute || left > time.Hour {
		t.Errorf("the access token lives %s, want an hour", left)
	}
	raw, _ := token.Extra("id_token").(string)
	idToken, err := provider.Verifier(&oidc.Config{ClientID: clientID}).Verify(ctx, raw)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		PreferredUsername string `json:"preferred_username"`
		AuthTime          int64  `json:"auth_time"`
	}
	if err := idToken.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if idToken.Subject != name || claims.PreferredUsername != name || idToken.Nonce != nonce || claims.AuthTime == 0 {
		t.Errorf("ID token: sub %q, name %q, nonce %q, auth_time %d", idToken.Subject, claims.PreferredUsername, idToken.Nonce, claims.AuthTime)
	}
	if err := idToken.VerifyAccessToken(token.AccessToken); err != nil {
		t.Errorf("at_hash: %v", err)
	}
	info, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil || info.Subject != name {
		t.Errorf("userinfo: %+v, %v", info, err)
	}
	if _, err := provider.UserInfo(ctx, oauth2.StaticTokenSource(&oauth2.Token{AccessToken: raw})); err == nil {
		t.Error("an ID token passes for an access token")
	}
	if _, err := client.Exchange(ctx, answer.Get("code"), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code was good for two tokens")
	}

	// The same person comes again, first with a typing error.
	response, body := is.signIn(t, authURL, name, "Wrong-horse1", "login")
	if response.StatusCode != http.StatusUnauthorized || !strings.Contains(body, `role="alert"`) || strings.Contains(body, "Wrong-horse1") {
		t.Errorf("wrong password: %d\n%s", response.StatusCode, body)
	}
	if !strings.Contains(body, `value="zoë &#34;&lt;b&gt;"`) {
		t.Error("the name typed is not kept, or not escaped")
	}
	response, _ = is.signIn(t, authURL, name, goodWord, "login")
	codeFrom(t, response)

	for _, secret := range []string{goodWord, "Wrong-horse1", raw, token.AccessToken} {
		if strings.Contains(is.log.String(), secret) {
			t.Error("a secret is in the log")
		}
	}
}

func TestIssuerCodeIsBoundToItsRequest(t *testing.T) {
	t.Parallel()
	is := startIssuer(t, t.TempDir())
	_, client, ctx := is.provider(t)
	if status, body := is.createUser(t, "ann", goodWord); status != http.StatusCreated {
		t.Fatalf("create user: %d %s", status, body)
	}
	verifier := oauth2.GenerateVerifier()
	newCode := func() string {
		response, _ := is.signIn(t, client.AuthCodeURL("s", oauth2.S256ChallengeOption(verifier)), "ann", goodWord, "login")
		return codeFrom(t, response).Get("code")
	}
	stolen := newCode()
	if _, err := client.Exchange(ctx, stolen, oauth2.VerifierOption(oauth2.GenerateVerifier())); err == nil {
		t.Error("exchanged with another verifier")
	}
	if _, err := client.Exchange(ctx, stolen, oauth2.VerifierOption(verifier)); err == nil {
		t.Error("a code survived a wrong verifier")
	}
	if _, err := client.Exchange(ctx, newCode()); err == nil {
		t.Error("exchanged without a verifier")
	}
	elsewhere := *client
	elsewhere.RedirectURL = "http://127.0.0.1:9999/"
	if _, err := elsewhere.Exchange(ctx, newCode(), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("exchanged with another redirect URI")
	}
	stranger := *client
	stranger.ClientID = "stranger"
	if _, err := stranger.Exchange(ctx, newCode(), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("exchanged by another client")
	}
	if _, err := client.Exchange(ctx, newCode(), oauth2.VerifierOption(verifier)); err != nil {
		t.Errorf("the right exchange: %v", err)
	}
}

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

func TestIssuerUsers(t *testing.T) {
	t.Parallel()
	is := startIssuer(t, t.TempDir())
	for _, test := range []struct {
		name, user, password string
		status               int
	}{
		{"new", "testUser", goodWord, http.StatusCreated},
		{"again", "testUser", goodWord, http.StatusOK},
		{"again, other password", "testUser", "Other-horse2", http.StatusConflict},
		{"space is special", "ann", "Correct horse1", http.StatusCreated},
		{"short", "bob", "Ab1-", http.StatusUnprocessableEntity},
		{"no upper", "bob", "correct-horse1", http.StatusUnprocessableEntity},
		{"no lower", "bob", "CORRECT-HORSE1", http.StatusUnprocessableEntity},
		{"no digit", "bob", "Correct-horse", http.StatusUnprocessableEntity},
		{"no special", "bob", "Correcthorse1", http.StatusUnprocessableEntity},
		{"too long", "bob", goodWord + strings.Repeat("x", 300), http.StatusUnprocessableEntity},
		{"no name", "", goodWord, http.StatusUnprocessableEntity},
		{"long name", strings.Repeat("n", 256), goodWord, http.StatusUnprocessableEntity},
		{"control character", "a\x00b", goodWord, http.StatusUnprocessableEntity},
		{"outer space", " bob", goodWord, http.StatusUnprocessableEntity},
	} {
		status, body := is.createUser(t, test.user, test.password)
		if status != test.status {
			t.Errorf("%s: %d %s, want %d", test.name, status, body, test.status)
		}
		if status >= 400 && !strings.Contains(body, `"detail":"The`) {
			t.Errorf("%s: problem %s lacks a detail", test.name, body)
		}
	}
	for _, test := range []struct {
		name, contentType, body string
		status                  int
	}{
		{"form", "application/x-www-form-urlencoded", "username=a", http.StatusUnsupportedMediaType},
		{"text", "text/plain", `{"username":"a","password":"b"}`, http.StatusUnsupportedMediaType},
		{"malformed", "application/json", `{"username":`, http.StatusBadRequest},
		{"unknown field", "application/json", `{"username":"a","admin":true}`, http.StatusBadRequest},
		{"two documents", "application/json", `{} {}`, http.StatusBadRequest},
		{"huge", "application/json", `{"username":"` + strings.Repeat("x", 100<<10) + `"}`, http.StatusBadRequest},
	} {
		response, body := is.post(t, "/users", test.contentType, test.body)
		if response.StatusCode != test.status || response.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s, want %d", test.name, response.StatusCode, body, test.status)
		}
	}
}

func TestIssuerCreatesAUserOnce(t *testing.T) {
	t.Parallel()
	is := startIssuer(t, t.TempDir())
	statuses := make([]int, 6)
	var creations sync.WaitGroup
	for i := range statuses {
		creations.Go(func() { statuses[i], _ = is.createUser(t, "ann", goodWord) })
	}
	creations.Wait()
	count := make(map[int]int)
	for _, status := range statuses {
		count[status]++
	}
	if count[http.StatusCreated] != 1 || count[http.StatusOK] != len(statuses)-1 {
		t.Errorf("statuses %v, want one 201 and else 200", count)
	}
}

func TestIssuerPasswordGrantSurvivesRestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "issuer")
	first := startIssuer(t, dir)
	if status, body := first.createUser(t, "testUser", goodWord); status != http.StatusCreated {
		t.Fatalf("create user: %d %s", status, body)
	}
	_, client, ctx := first.provider(t)
	token, err := client.PasswordCredentialsToken(ctx, "testUser", goodWord)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][2]string{{"testUser", "Wrong-horse1"}, {"nobody", goodWord}, {"", ""}} {
		if _, err := client.PasswordCredentialsToken(ctx, wrong[0], wrong[1]); err == nil || !strings.Contains(err.Error(), "invalid_grant") {
			t.Errorf("password grant for %q: %v, want invalid_grant", wrong[0], err)
		}
	}

	second := startIssuer(t, dir)
	provider, again, ctx := second.provider(t)
	if _, err := again.PasswordCredentialsToken(ctx, "testUser", goodWord); err != nil {
		t.Errorf("the user is gone after a restart: %v", err)
	}
	// The test's second issuer has another port, and so another name.
	config := &oidc.Config{ClientID: clientID, SkipIssuerCheck: true}
	if _, err := provider.Verifier(config).Verify(ctx, token.Extra("id_token").(string)); err != nil {
		t.Errorf("a token from before the restart: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o, want 600", file.Name(), info.Mode().Perm())
		}
		text, err := os.ReadFile(filepath.Join(dir, file.Name()))
		if err != nil || bytes.Contains(text, []byte(goodWord)) {
			t.Errorf("%s holds the password (%v)", file.Name(), err)
		}
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
