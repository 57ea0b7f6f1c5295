package devstack

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	codeLifetime = time.Minute
	maxCodes     = 1000 // given out and not yet used
	challengeLen = 43   // base64url of a SHA-256
	maxNonce     = 1024 // bytes; it comes back in the ID token
)

var scopes = []string{"openid", "profile"}

// request is an authorization request. The login form carries it along, so
// nothing is kept for people who never finish; it is checked again then.
type request struct {
	ClientID, RedirectURI, State, Nonce, Challenge, Scope, LoginHint string
	origin                                                           string // of RedirectURI
}

// oauthError is an answer that the client, not the person, has to understand.
type oauthError struct{ code, description string }

func (e *oauthError) Error() string { return e.code + ": " + e.description }

// parseRequest checks an authorization request. An error of type badInput means
// that the redirect URI cannot be trusted and the person must be told; an
// oauthError goes to the client through the redirect.
func (is *Issuer) parseRequest(form url.Values) (request, error) {
	req := request{
		ClientID:    form.Get("client_id"),
		RedirectURI: form.Get("redirect_uri"),
		State:       form.Get("state"),
		Nonce:       form.Get("nonce"),
		Challenge:   form.Get("code_challenge"),
		LoginHint:   form.Get("login_hint"),
	}
	if req.ClientID != is.config.ClientID {
		return req, badInput("The application that sent you here is not known (client_id).")
	}
	var ok bool
	if req.origin, ok = loopbackRedirect(req.RedirectURI); !ok {
		return req, badInput("The application wants you sent to an address that is not on this machine (redirect_uri).")
	}
	for name, values := range form {
		if len(values) > 1 {
			return req, &oauthError{"invalid_request", name + " is given more than once"}
		}
	}
	switch {
	case form.Has("request"):
		return req, &oauthError{"request_not_supported", "request objects are not supported"}
	case form.Has("request_uri"):
		return req, &oauthError{"request_uri_not_supported", "request objects are not supported"}
	case form.Get("response_type") != "code":
		return req, &oauthError{"unsupported_response_type", "response_type must be code"}
	case form.Has("response_mode") && form.Get("response_mode") != "query":
		return req, &oauthError{"invalid_request", "response_mode must be query"}
	case form.Get("code_challenge_method") != "S256" || len(req.Challenge) != challengeLen:
		return req, &oauthError{"invalid_request", "PKCE is required: code_challenge with code_challenge_method S256"}
	case len(req.Nonce) > maxNonce:
		return req, &oauthError{"invalid_request", "nonce is too long"}
	case form.Get("prompt") == "none":
		return req, &oauthError{"login_required", "nobody stays signed in here"}
	}
	if req.Scope, ok = grantScope(form.Get("scope")); !ok {
		return req, &oauthError{"invalid_scope", "scope must contain openid"}
	}
	return req, nil
}

// grantScope returns the part of a requested scope that we know.
func grantScope(requested string) (granted string, ok bool) {
	var known []string
	for _, scope := range strings.Fields(requested) {
		if slices.Contains(scopes, scope) && !slices.Contains(known, scope) {
			known = append(known, scope)
		}
	}
	return strings.Join(known, " "), slices.Contains(known, "openid")
}

// authorize shows the login page.
func (is *Issuer) authorize(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		is.showPage(w, http.StatusBadRequest, page{Fatal: "The request cannot be read."})
		return
	}
	req, err := is.parseRequest(r.Form)
	if err != nil {
		is.refuse(w, r, req, err)
		return
	}
	is.showPage(w, http.StatusOK, page{Request: req, UserName: req.LoginHint})
}

// login takes the login page's form: it signs in, or creates the user first.
func (is *Issuer) login(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		is.showPage(w, http.StatusBadRequest, page{Fatal: "The request cannot be read."})
		return
	}
	form := r.PostForm
	name, password, create := form.Get("username"), form.Get("password"), form.Get("action") == "create"
	form.Set("response_type", "code")
	form.Set("code_challenge_method", "S256")
	req, err := is.parseRequest(form)
	if err != nil {
		is.refuse(w, r, req, err)
		return
	}

	if create {
		var created bool
		if created, err = is.users.create(r.Context(), name, password); created {
			is.config.Logger.InfoContext(r.Context(), "user created", "user_id", name)
		}
	} else {
		err = is.users.check(r.Context(), name, password)
	}
	var bad badInput
	switch {
	case err == nil:
	case errors.Is(err, errWrongPassword):
		is.showPage(w, http.StatusUnauthorized, page{Request: req, UserName: name, Problem: "There is no such user, or the password is wrong. To make a new user, press “Create user”."})
		return
	case errors.Is(err, errUserExists):
		is.showPage(w, http.StatusConflict, page{Request: req, UserName: name, Problem: "There is a user of that name already, with another password."})
		return
	case errors.As(err, &bad):
		is.showPage(w, http.StatusUnprocessableEntity, page{Request: req, UserName: name, Problem: bad.Error()})
		return
	default:
		is.config.Logger.ErrorContext(r.Context(), "login failed", "err", err)
		is.showPage(w, http.StatusInternalServerError, page{Request: req, UserName: name, Problem: "That did not work, for a reason that is in the issuer's log. Try again."})
		return
	}

	code, ok := is.codes.issue(pendingCode{request: req, user: name})
	if !ok {
		is.refuse(w, r, req, &oauthError{"temporarily_unavailable", "too many sign-ins at once"})
		return
	}
	is.redirect(w, r, req, url.Values{"code": {code}})
}

// refuse tells the client through the redirect, or, where that cannot be
// trusted, the person.
func (is *Issuer) refuse(w http.ResponseWriter, r *http.Request, req request, err error) {
	var forClient *oauthError
	if errors.As(err, &forClient) {
		is.redirect(w, r, req, url.Values{"error": {forClient.code}, "error_description": {forClient.description}})
		return
	}
	is.showPage(w, http.StatusBadRequest, page{Fatal: err.Error()})
}

func (is *Issuer) redirect(w http.ResponseWriter, r *http.Request, req request, answer url.Values) {
	target, err := url.Parse(req.RedirectURI)
	if err != nil {
		is.showPage(w, http.StatusBadRequest, page{Fatal: "The redirect URI cannot be read."})
		return
	}
	query := target.Query()
	for name := range answer {
		query.Set(name, answer.Get(name))
	}
	if req.State != "" {
		query.Set("state", req.State)
	}
	query.Set("iss", is.config.URL)
	target.RawQuery = query.Encode()
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, target.String(), http.StatusSeeOther)
}

// page is what the login page shows.
type page struct {
	Request  request
	UserName string
	Problem  string // why the last try failed
	Fatal    string // there is nothing to fill in
}

func (is *Issuer) showPage(w http.ResponseWriter, status int, p page) {
	var html bytes.Buffer
	if err := is.page.Execute(&html, p); err != nil {
		is.config.Logger.Error("login page failed", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	// Browsers apply form-action to the redirect after the form as well.
	policy := "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self' " + p.Request.origin
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", strings.TrimSpace(policy))
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	html.WriteTo(w) // fails only when the client has gone
}

// pendingCode is a code that was given out.
type pendingCode struct {
	request request
	user    string
	issued  time.Time
}

// codes are the authorization codes not yet used. They do not survive a restart:
// whoever was signing in at that moment does it again.
type codes struct {
	mu      sync.Mutex
	pending map[string]pendingCode
}

func newCodes() *codes { return &codes{pending: make(map[string]pendingCode)} }

// issue keeps p under a new code; false when too many are pending.
func (c *codes) issue(p pendingCode) (code string, ok bool) {
	p.issued = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	for code, old := range c.pending {
		if p.issued.Sub(old.issued) > codeLifetime {
			delete(c.pending, code)
		}
	}
	if len(c.pending) >= maxCodes {
		return "", false
	}
	code = rand.Text() + rand.Text()
	c.pending[code] = p
	return code, true
}

// redeem uses a code up, also when the rest of the request turns out wrong: who
// presents it with a wrong verifier has stolen it.
func (c *codes) redeem(code string) (pendingCode, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pending[code]
	delete(c.pending, code)
	return p, ok && time.Since(p.issued) <= codeLifetime
}

// challengeOf is the S256 challenge that belongs to a PKCE verifier.
func challengeOf(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
