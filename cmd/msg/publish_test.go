package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPublish(t *testing.T) {
	t.Parallel()
	var body string
	var header http.Header
	status, says := 202, `{"userId":"ada","seq":7,"acceptedAt":"2030-01-02T03:04:05.000Z","expiresAt":"2030-02-02T03:04:05.000Z"}`
	b := newBench(t, map[string]http.HandlerFunc{"POST /v1/messages": func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		body, header = strings.TrimSpace(string(raw)), r.Header
		answer(w, status, says)
	}})
	for _, c := range []struct {
		args []string
		body string
	}{
		{[]string{"ada", "Your order has left"}, `{"userId":"ada","message":"Your order has left"}`},
		{[]string{"ada", ` {"order": 17} `}, `{"userId":"ada","message":{"order":17}}`},
		{[]string{"ada", "42"}, `{"userId":"ada","message":42}`},
		{[]string{"ada", "42", "-text"}, `{"userId":"ada","message":"42"}`},
		{[]string{"-ttl", "48h", "-type", "order.sent", "ada", "x"}, `{"userId":"ada","message":"x","type":"order.sent","ttl":172800}`},
		{[]string{"ada", "-"}, `{"userId":"ada","message":"from stdin"}`},
	} {
		b.stdin = "from stdin"
		b.want(0, "7\n", "Message 7 of ada is on disk", append([]string{"publish"}, c.args...)...)
		if body != c.body {
			t.Errorf("%q sent %s, want %s", c.args, body, c.body)
		}
	}
	if header.Get("Authorization") != "Bearer rk_0123_secret" || header.Get("Idempotency-Key") == "" {
		t.Errorf("headers %v", header)
	}
	b.want(0, "", "", "publish", "ada", "x", "-key", "mine")
	if header.Get("Idempotency-Key") != "mine" {
		t.Errorf("idempotency key %q", header.Get("Idempotency-Key"))
	}
	says = strings.Replace(says, `{`, `{"repeated":true,`, 1)
	b.want(0, "", "accepted before", "publish", "ada", "x", "-key", "mine")

	b.want(2, "", "give a user id and a message", "publish", "ada")
	b.want(2, "", "whole seconds", "publish", "ada", "x", "-ttl", "1500ms")
	b.want(1, "", "not valid UTF-8", "publish", "ada", "\xff")
	status, says = 401, `{"detail":"API key rejected."}`
	b.want(1, "", "API key rejected. (401)\nRESTANTE_API_KEY must be a key with the scope publish", "publish", "ada", "x")
	status, says = 503, `{"detail":"Outcome unknown."}`
	b.want(1, "", "Repeating is safe with: -key 'mine'", "publish", "ada", "x", "-key", "mine")
	status, says = 413, `{"detail":"The message is too large."}`
	b.want(1, "", "the gateway says: The message is too large. (413)", "publish", "ada", "x")
}

func TestAPIKeyOfTheDevelopmentGateway(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]http.HandlerFunc{"GET /v1/users/ada": func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer rk_dev_key" {
			answer(w, 401, `{}`)
			return
		}
		answer(w, 200, `{"userId":"ada","head":0,"acked":0,"pending":0,"sessions":[]}`)
	}})
	b.env["RESTANTE_API_KEY"] = ""
	b.want(1, "", "RESTANTE_API_KEY is not set\nMake a key with: msg keys create", "status", "ada")
	if err := os.WriteFile(filepath.Join(b.stateDir, "api-key"), []byte("rk_dev_key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.want(0, "pending   0", "", "status", "ada")
}

func TestStatusAndMessage(t *testing.T) {
	t.Parallel()
	var path string
	status, says := 200, ""
	b := newBench(t, map[string]http.HandlerFunc{"GET /v1/users/": func(w http.ResponseWriter, r *http.Request) {
		path = r.URL.EscapedPath()
		answer(w, status, says)
	}})
	says = `{"userId":"a/b c","connected":true,"pending":2,"head":9,"acked":7,"sessions":[
		{"session":"s-1","replica":"r-1","transport":"websocket","connectedAt":"2030-01-02T03:04:05.000Z"}]}`
	b.want(0, "pending   2", "", "status", "a/b c")
	if path != "/v1/users/a%2Fb%20c" {
		t.Errorf("asked for %s", path)
	}
	if !strings.Contains(b.stdout.String(), "session   s-1 websocket on replica r-1 since 2030-01-02") {
		t.Errorf("it says\n%s", b.stdout.String())
	}
	b.want(0, `"pending": 2`, "", "status", "-json", "a")
	b.want(0, "", "", "status", "..")
	if path != "/v1/users/%2E%2E" {
		t.Errorf("asked for %s", path)
	}

	says = `{"userId":"a","seq":3,"state":"accepted","acceptedAt":"2030-01-02T03:04:05.000Z","expiresAt":"2030-02-02T03:04:05.000Z"}`
	b.want(0, "accepted: waits for the user until 2030-02-0", "", "message", "a", "3")
	if path != "/v1/users/a/messages/3" {
		t.Errorf("asked for %s", path)
	}
	says = strings.Replace(says, "accepted", "delivered", 1)
	b.want(0, "delivered: a client has confirmed it", "", "message", "a", "3")
	b.want(0, `"state": "delivered"`, "", "message", "a", "3", "-json")

	says = strings.Replace(says, "delivered", "expired", 1)
	b.want(0, "expired: nobody confirmed it in time; accepted at 2030-01-0", "", "message", "a", "3")
	if !strings.Contains(b.stdout.String(), ", expired at 2030-02-0") {
		t.Errorf("it says\n%s", b.stdout.String())
	}
	says = `{"userId":"a","seq":3,"state":"expired"}` // it is gone, and its times with it
	b.want(0, "expired: nobody confirmed it in time\n", "", "message", "a", "3")

	b.want(2, "", "give one user id", "status")
	b.want(2, "", "not the number of a message", "message", "a", "0")
	b.want(2, "", "not the number of a message", "message", "a", "last")
	status = 404
	b.want(1, "", `never heard of a user "a"`, "status", "a")
	b.want(1, "", "there is no message 3", "message", "a", "3")
	status, says = 403, `{"detail":"The scope read is missing."}`
	b.want(1, "", "The scope read is missing. (403)\nRESTANTE_API_KEY must be a key with the scope read", "status", "a")
	status, says = 503, `{"title":"Unavailable","detail":"\u001b[31mred"}`
	b.want(1, "", `"\x1b[31mred"`, "status", "a")
}
