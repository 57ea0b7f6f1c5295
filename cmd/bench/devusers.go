package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// usersPassword is no secret: these users exist at a development issuer on this
// machine, and every run signs in the same ones.
const usersPassword = "Bench-users-1"

// devUsers makes users at the development issuer and signs them in with a
// password, for gateways that were started elsewhere. The issuer hashes
// passwords slowly on purpose, so thousands of users take their time.
type devUsers struct {
	issuer string
	web    *http.Client

	mu     sync.Mutex // guards tokens
	tokens map[int]string
}

func newDevUsers(issuer string) *devUsers {
	return &devUsers{
		issuer: strings.TrimSuffix(issuer, "/"),
		web:    &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxConnsPerHost: 4}},
		tokens: map[int]string{},
	}
}

func (d *devUsers) idToken(ctx context.Context, user int) (string, error) {
	d.mu.Lock()
	token, known := d.tokens[user]
	d.mu.Unlock()
	if known {
		return token, nil
	}
	account, err := json.Marshal(map[string]string{"username": userName(user), "password": usersPassword})
	if err != nil {
		return "", err
	}
	if _, err := d.call(ctx, "/users", "application/json", string(account)); err != nil {
		return "", fmt.Errorf("make %s at the issuer: %w", userName(user), err)
	}
	form := url.Values{"grant_type": {"password"}, "client_id": {audience}, "scope": {"openid profile"},
		"username": {userName(user)}, "password": {usersPassword}}
	body, err := d.call(ctx, "/token", "application/x-www-form-urlencoded", form.Encode())
	if err != nil {
		return "", fmt.Errorf("sign in %s: %w", userName(user), err)
	}
	var answer struct {
		IDToken string `json:"id_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("sign in %s: %w", userName(user), err)
	}
	if sub := subject(answer.IDToken); sub != userName(user) {
		return "", fmt.Errorf("the issuer calls %s %q: bench needs one that keeps user names", userName(user), sub)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tokens[user] = answer.IDToken
	return answer.IDToken, nil
}

func (d *devUsers) call(ctx context.Context, path, contentType, body string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, "POST", d.issuer+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", contentType)
	answer, err := d.web.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode/100 != 2 {
		return nil, fmt.Errorf("answer %s: %.200s", answer.Status, text)
	}
	return text, nil
}

// subject reads a token's sub without verifying it; the gateway will.
func subject(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct{ Sub string }
	if err := json.Unmarshal(text, &claims); err != nil {
		return ""
	}
	return claims.Sub
}
