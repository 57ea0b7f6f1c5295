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
