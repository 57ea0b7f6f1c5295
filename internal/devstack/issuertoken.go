package devstack

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// token is the token endpoint. Its errors are OAuth's, not problem documents:
// OAuth libraries read them.
func (is *Issuer) token(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/x-www-form-urlencoded" {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "the body must be application/x-www-form-urlencoded")
		return
	}
	if err := r.ParseForm(); err != nil {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "the body cannot be read")
		return
	}
	form := r.PostForm
	for name, values := range form {
		if len(values) > 1 {
			writeOAuthError(w, http.StatusBadRequest, "invalid_request", name+" is given more than once")
			return
		}
	}
	if form.Get("client_id") != is.config.ClientID {
		writeOAuthError(w, http.StatusUnauthorized, "invalid_client", "unknown client_id")
		return
	}

	var g grant
	var err error
	switch form.Get("grant_type") {
	case "authorization_code":
		g, err = is.redeemCode(form)
	case "password":
		g, err = is.passwordGrant(r, form)
	default:
		err = &oauthError{"unsupported_grant_type", "grant_type must be authorization_code or password"}
	}
	var forClient *oauthError
	if errors.As(err, &forClient) {
		is.config.Logger.InfoContext(r.Context(), "token refused", "reason", forClient.code, "grant_type", knownGrant(form))
		writeOAuthError(w, http.StatusBadRequest, forClient.code, forClient.description)
		return
	}
	var access, id string
	if err == nil {
		access, id, err = is.tokens(g)
	}
	if err != nil {
		is.config.Logger.ErrorContext(r.Context(), "token failed", "err", err)
		writeOAuthError(w, http.StatusInternalServerError, "server_error", "the reason is in the issuer's log")
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": access,
		"id_token":     id,
		"token_type":   "Bearer",
		"expires_in":   int(tokenLifetime / time.Second),
		"scope":        g.scope,
	})
}

// knownGrant keeps what a stranger typed out of the log.
func knownGrant(form url.Values) string {
	switch grantType := form.Get("grant_type"); grantType {
	case "authorization_code", "password":
		return grantType
	default:
		return "other"
	}
}

func (is *Issuer) redeemCode(form url.Values) (grant, error) {
	refused := &oauthError{"invalid_grant", "the code is unknown, used, too old, or does not belong to this request"}
	p, ok := is.codes.redeem(form.Get("code"))
	if !ok || p.request.RedirectURI != form.Get("redirect_uri") {
		return grant{}, refused
	}
	verifier := form.Get("code_verifier")
	if len(verifier) < 43 || len(verifier) > 128 ||
		subtle.ConstantTimeCompare([]byte(challengeOf(verifier)), []byte(p.request.Challenge)) != 1 {
		return grant{}, refused
	}
	return grant{user: p.user, scope: p.request.Scope, nonce: p.request.Nonce, authenticated: p.issued}, nil
}

func (is *Issuer) passwordGrant(r *http.Request, form url.Values) (grant, error) {
	scope := "openid"
	if form.Get("scope") != "" {
		var ok bool
		if scope, ok = grantScope(form.Get("scope")); !ok {
			return grant{}, &oauthError{"invalid_scope", "scope must contain openid"}
		}
	}
	err := is.users.check(r.Context(), form.Get("username"), form.Get("password"))
	if errors.Is(err, errWrongPassword) {
		return grant{}, &oauthError{"invalid_grant", err.Error()}
	}
	if err != nil {
		return grant{}, err
	}
	return grant{user: form.Get("username"), scope: scope, authenticated: time.Now()}, nil
}

// userInfo says whose access token it is.
func (is *Issuer) userInfo(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		w.Header().Set("WWW-Authenticate", "Bearer")
		writeProblem(w, http.StatusUnauthorized, "Send the access token as a bearer token.")
		return
	}
	user, err := is.verifyAccess(token)
	if err != nil {
		is.config.Logger.InfoContext(r.Context(), "access token refused", "err", err)
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		writeProblem(w, http.StatusUnauthorized, "The access token is not valid.")
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"sub": user, "preferred_username": user})
}

// createUser is POST /users: 201 for a new user, 200 for one that is there with
// the same password, so that it can be repeated.
func (is *Issuer) createUser(w http.ResponseWriter, r *http.Request) {
	if mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); mediaType != "application/json" {
		writeProblem(w, http.StatusUnsupportedMediaType, "The body must be application/json.")
		return
	}
	var body struct {
		Username string `json:"username"`
		Password string `json:"password"`
	}
	decoder := json.NewDecoder(r.Body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil || decoder.More() {
		writeProblem(w, http.StatusBadRequest, `The body must be {"username": "…", "password": "…"}.`)
		return
	}
	created, err := is.users.create(r.Context(), body.Username, body.Password)
	var bad badInput
	switch {
	case err == nil && created:
		is.config.Logger.InfoContext(r.Context(), "user created", "user_id", body.Username)
		writeJSON(w, http.StatusCreated, map[string]string{"username": body.Username})
	case err == nil:
		writeJSON(w, http.StatusOK, map[string]string{"username": body.Username})
	case errors.As(err, &bad):
		writeProblem(w, http.StatusUnprocessableEntity, bad.Error())
	case errors.Is(err, errUserExists):
		writeProblem(w, http.StatusConflict, "There is a user of that name already, with another password.")
	case errors.Is(err, errTooManyUsers):
		writeProblem(w, http.StatusInsufficientStorage, "This development issuer keeps no more users.")
	default:
		is.config.Logger.ErrorContext(r.Context(), "user not created", "err", err)
		writeProblem(w, http.StatusInternalServerError, "The reason is in the issuer's log.")
	}
}

func writeOAuthError(w http.ResponseWriter, status int, code, description string) {
	writeJSON(w, status, map[string]string{"error": code, "error_description": description})
}

// writeProblem answers with an RFC 9457 problem document.
func writeProblem(w http.ResponseWriter, status int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{ // fails only when the client has gone
		"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": detail,
	})
}
