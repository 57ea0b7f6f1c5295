package devstack_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
)

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
