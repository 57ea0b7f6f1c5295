package sample

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"restante/internal/identity"
)

// fakeUsers knows two tokens; "away" stands for an issuer that cannot be reached.
type fakeUsers struct{}

func (fakeUsers) User(_ context.Context, idToken string) (identity.User, error) {
	switch idToken {
	case "ada-token":
		return identity.User{ID: "ada-id", Username: "ada"}, nil
	case "away":
		return identity.User{}, identity.ErrUnavailable
	}
	return identity.User{}, identity.ErrRejected
}

// posted is a request as the gateway got it.
type posted struct {
	at     time.Time
	header http.Header
	body   string
}

// fakeGateway answers in the process itself, so that it can be used in a
// synctest bubble. Answers are taken from a script; after its end everything is
// accepted.
type fakeGateway struct {
	mu     sync.Mutex
	script []func(*http.Request) (*http.Response, error)
	posts  []posted
}

func (g *fakeGateway) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	g.posts = append(g.posts, posted{time.Now(), r.Header.Clone(), string(body)})
	step := answer(202, "", `{"userId":"ada-id","seq":7}`)
	if len(g.script) > 0 {
		step, g.script = g.script[0], g.script[1:]
	}
	g.mu.Unlock()
	return step(r)
}

func (g *fakeGateway) all() []posted {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]posted(nil), g.posts...)
}

func answer(status int, retryAfter, body string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		h := http.Header{}
		if retryAfter != "" {
			h.Set("Retry-After", retryAfter)
		}
		return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
}

func fails(err error) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return nil, err }
}

// hangs until the request's context ends.
func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// logBook collects log lines.
type logBook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBook) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// lines returns the records with this message.
func (b *logBook) lines(t *testing.T, msg string) []map[string]any {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []map[string]any
	for line := range strings.Lines(b.buf.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("log line is not JSON: %s", line)
		}
		if record["msg"] == msg {
			found = append(found, record)
		}
	}
	return found
}

func (b *logBook) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// bench is an application under test with its surroundings.
type bench struct {
	app     *App
	gateway *fakeGateway
	log     *logBook
}

func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	b := &bench{gateway: &fakeGateway{}, log: &logBook{}}
	cfg := Config{
		GatewayURL: "http://gateway.test", APIKey: "rk_test_secret", Users: fakeUsers{}, Transport: b.gateway,
		Log: slog.New(slog.NewJSONHandler(b.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if b.app, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return b
}

// run starts the application; the function it returns stops it and waits.
func (b *bench) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.app.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

// process posts body with ada's token.
func (b *bench) process(body string) *httptest.ResponseRecorder {
	return b.do("POST", body, map[string]string{"Authorization": "ada-token", "Content-Type": "application/json"})
}

func (b *bench) do(method, body string, header map[string]string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/process", strings.NewReader(body))
	for name, value := range header {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	b.app.Handler().ServeHTTP(w, r)
	return w
}
