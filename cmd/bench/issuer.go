package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	audience = "restante"
	// tokenLife outlasts any run.
	tokenLife = 24 * time.Hour
)

// issuer is an OpenID Connect issuer on a loopback port, as small as a
// verifier allows: discovery, keys, and tokens for whoever holds the pointer.
// Gateways that bench starts trust it; it ends with the run.
type issuer struct {
	url    string
	signer jose.Signer
	server *http.Server
	done   chan struct{}

	mu     sync.Mutex // guards tokens
	tokens map[int]string
}

func startIssuer() (*issuer, error) {
	// Elliptic, because bench signs a token per user while it measures: RSA takes
	// thirty times as long to sign.
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	const id = "bench"
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}},
		(&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i := &issuer{url: "http://" + listener.Addr().String(), signer: signer, done: make(chan struct{}), tokens: map[int]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", document(map[string]any{
		"issuer": i.url, "jwks_uri": i.url + "/keys",
		"authorization_endpoint": i.url + "/authorize", "token_endpoint": i.url + "/token",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{string(jose.ES256)},
	}))
	mux.HandleFunc("GET /keys", document(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: key.Public(), KeyID: id, Algorithm: string(jose.ES256), Use: "sig"},
	}}))
	// Users by name and password, as the development issuer has them, for runs
	// with -url against what bench up has started.
	mux.HandleFunc("POST /users", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /token", i.signIn)
	i.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(i.done)
		i.server.Serve(listener) // ends with stop
	}()
	return i, nil
}

// document answers with JSON. A client that has gone needs no answer.
func document(v any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
}

func (i *issuer) signIn(w http.ResponseWriter, r *http.Request) {
	number, ours := strings.CutPrefix(r.PostFormValue("username"), "bench-")
	user, err := strconv.Atoi(number)
	if !ours || err != nil || userName(user) != r.PostFormValue("username") || r.PostFormValue("password") != usersPassword {
		http.Error(w, "no such user", http.StatusBadRequest)
		return
	}
	token, err := i.idToken(r.Context(), user)
	if err != nil {
		http.Error(w, "cannot sign", http.StatusInternalServerError)
		return
	}
	document(map[string]string{"id_token": token})(w, r)
}

func (i *issuer) stop() error {
	err := i.server.Close()
	<-i.done
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// idToken signs a token for the user, or returns the one it signed before.
func (i *issuer) idToken(_ context.Context, user int) (string, error) {
	i.mu.Lock()
	token, known := i.tokens[user]
	i.mu.Unlock()
	if known {
		return token, nil
	}
	now := time.Now()
	claims := map[string]any{
		"iss": i.url, "aud": audience, "sub": userName(user), "preferred_username": userName(user),
		"iat": now.Unix(), "exp": now.Add(tokenLife).Unix(),
	}
	token, err := jwt.Signed(i.signer).Claims(claims).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign an ID token: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tokens[user] = token
	return token, nil
}
