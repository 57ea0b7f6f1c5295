package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// bench is msg with its surroundings: one HTTP server that plays the gateway,
// the issuer and the sample application.
type bench struct {
	t              *testing.T
	server         *httptest.Server
	env            map[string]string
	stdin          string
	stateDir       string
	stdout, stderr lockedBuffer
}

func newBench(t *testing.T, routes map[string]http.HandlerFunc) *bench {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, handler := range routes {
		mux.HandleFunc(pattern, handler)
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &bench{t: t, server: server, stateDir: t.TempDir(), env: map[string]string{
		"RESTANTE_URL": server.URL, "RESTANTE_ISSUER": server.URL, "RESTANTE_SAMPLE_URL": server.URL,
		"RESTANTE_API_KEY": "rk_0123_secret", "ID_TOKEN": token("ada-id", "ada", time.Now().Add(time.Hour)),
	}}
}

func (b *bench) run(args ...string) int { return b.runContext(b.t.Context(), args...) }

func (b *bench) runContext(ctx context.Context, args ...string) int {
	return run(ctx, args, &env{
		getenv: func(name string) string { return b.env[name] }, stateDir: b.stateDir,
		stdin: strings.NewReader(b.stdin), stdout: &b.stdout, stderr: &b.stderr,
	})
}

// want runs a command and checks its exit code and what it says.
func (b *bench) want(code int, stdout, stderr string, args ...string) {
	b.t.Helper()
	b.stdout.reset()
	b.stderr.reset()
	if got := b.run(args...); got != code {
		b.t.Errorf("msg %q: exit code %d, want %d; it said:\n%s%s", args, got, code, b.stdout.String(), b.stderr.String())
	}
	if !strings.Contains(b.stdout.String(), stdout) {
		b.t.Errorf("msg %q: standard output\n%s\ndoes not contain %q", args, b.stdout.String(), stdout)
	}
	if !strings.Contains(b.stderr.String(), stderr) {
		b.t.Errorf("msg %q: standard error\n%s\ndoes not contain %q", args, b.stderr.String(), stderr)
	}
}

// lockedBuffer is written by the command and read by the test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Reset()
}

// token is an ID token as far as msg looks at it.
func token(sub, name string, expires time.Time) string {
	part := base64.RawURLEncoding.EncodeToString
	return part([]byte(`{"alg":"RS256"}`)) + "." +
		part(fmt.Appendf(nil, `{"sub":%q,"preferred_username":%q,"exp":%d}`, sub, name, expires.Unix())) + "." + part([]byte("signature"))
}

func answer(w http.ResponseWriter, status int, body string) {
	if status >= 400 {
		w.Header().Set("Content-Type", "application/problem+json")
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}
