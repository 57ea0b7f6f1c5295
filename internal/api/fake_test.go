package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/api"
	"restante/internal/events"
	"restante/internal/identity"
	"restante/internal/publishers"
	"restante/internal/tokens"
)

const (
	publishKey = "rk_pub_secret"    // publishes to and reads everybody
	teamKey    = "rk_team_secret"   // only users that begin with "team-"
	readKey    = "rk_read_secret"   // only reads
	brokenKey  = "rk_broken_secret" // cannot be checked now

	limitedKey   = "rk_limited_secret"   // publishes 5 messages a second
	unlimitedKey = "rk_unlimited_secret" // publishes, whatever the default rate
)

var acceptedAt = time.Date(2026, 11, 23, 10, 0, 0, 123_456_789, time.UTC)

// fakeLog keeps messages in memory: what the edge makes of requests is looked at
// in appended.
type fakeLog struct {
	mu       sync.Mutex
	appended []events.Message
	heads    map[string]int64
	keys     map[string]keyed
	fail     error         // what Append answers
	itemErr  error         // what each receipt of Append says
	block    chan struct{} // Append waits for it, when it is there
	panics   bool
	expired  bool // what Status answers
}

type keyed struct {
	payload string
	receipt events.Receipt
}

func (l *fakeLog) Append(ctx context.Context, messages []events.Message) ([]events.Receipt, error) {
	if l.block != nil {
		select {
		case <-l.block:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.panics {
		panic("the log is on fire")
	}
	if l.fail != nil {
		return nil, l.fail
	}
	receipts := make([]events.Receipt, len(messages))
	for i, m := range messages {
		if l.itemErr != nil {
			receipts[i].Err = l.itemErr
			continue
		}
		id := m.Publisher + "\x00" + m.UserID + "\x00" + m.Key
		if first, ok := l.keys[id]; ok && m.Key != "" {
			receipts[i] = first.receipt
			receipts[i].Repeated = true
			if first.payload != string(m.Payload)+m.Type {
				receipts[i] = events.Receipt{Err: events.ErrKeyReused}
			}
			continue
		}
		l.heads[m.UserID]++
		receipts[i] = events.Receipt{Seq: l.heads[m.UserID], AcceptedAt: acceptedAt, ExpiresAt: acceptedAt.Add(m.TTL)}
		l.keys[id] = keyed{string(m.Payload) + m.Type, receipts[i]}
		l.appended = append(l.appended, m)
	}
	return receipts, nil
}

func (l *fakeLog) Status(_ context.Context, userID string, seq int64) (events.Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return events.Status{}, l.fail
	}
	if seq > l.heads[userID] {
		return events.Status{}, fmt.Errorf("status: %w", events.ErrNotFound)
	}
	if l.expired {
		return events.Status{State: events.Expired}, nil
	}
	return events.Status{State: events.Accepted, AcceptedAt: acceptedAt, ExpiresAt: acceptedAt.Add(time.Hour)}, nil
}

func (l *fakeLog) Stream(_ context.Context, userID string) (events.Stream, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return events.Stream{}, l.fail
	}
	head, ok := l.heads[userID]
	if !ok {
		return events.Stream{}, fmt.Errorf("stream: %w", events.ErrNotFound)
	}
	return events.Stream{Head: head, Acked: head - 1, Sessions: []events.Presence{
		{SessionID: "s1", ReplicaID: "r1", Transport: "plain", ConnectedAt: acceptedAt},
		{SessionID: "s2", ReplicaID: "r2", Transport: "restante.v1", ConnectedAt: acceptedAt},
	}}, nil
}

func (l *fakeLog) last(t *testing.T) events.Message {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.appended) == 0 {
		t.Fatal("nothing was appended")
	}
	return l.appended[len(l.appended)-1]
}

func (l *fakeLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.appended)
}

type fakeKeys struct{}

func (fakeKeys) Authenticate(_ context.Context, key string) (publishers.Publisher, error) {
	switch key {
	case publishKey:
		return publishers.Publisher{KeyID: "pub", Name: "shop", Scopes: []string{"publish", "read"}}, nil
	case teamKey:
		return publishers.Publisher{KeyID: "team", Name: "team", Scopes: []string{"publish", "read"}, UserPrefix: "team-"}, nil
	case readKey:
		return publishers.Publisher{KeyID: "read", Name: "support", Scopes: []string{"read"}}, nil
	case limitedKey:
		rate := int64(5)
		return publishers.Publisher{KeyID: "limited", Name: "limited", Scopes: []string{"publish"}, Rates: publishers.Rates{Messages: &rate}}, nil
	case unlimitedKey:
		return publishers.Publisher{KeyID: "unlimited", Name: "unlimited", Scopes: []string{"publish"}, Rates: publishers.Rates{Messages: new(int64)}}, nil
	case brokenKey:
		return publishers.Publisher{}, fmt.Errorf("look up key: %w", publishers.ErrUnavailable)
	}
	return publishers.Publisher{}, fmt.Errorf("key %q: %w", "unknown", publishers.ErrRejected)
}

type fakeIdentity struct{}

func (fakeIdentity) User(_ context.Context, idToken string) (identity.User, error) {
	switch idToken {
	case "id-token-of-ann":
		return identity.User{ID: "ann", Username: "Ann"}, nil
	case "id-token-while-issuer-is-down":
		return identity.User{}, fmt.Errorf("fetch keys: %w", identity.ErrUnavailable)
	}
	return identity.User{}, fmt.Errorf("verify: %w", identity.ErrRejected)
}

func (fakeIdentity) Wanted(scope string) string { return "restante:" + scope + " in its claim scope" }

func (fakeIdentity) Publisher(_ context.Context, accessToken string) (identity.Publisher, error) {
	if accessToken == "access-token" {
		return identity.Publisher{ID: "billing", Scopes: []string{"publish"}}, nil
	}
	return identity.Publisher{}, fmt.Errorf("verify: %w", identity.ErrRejected)
}

type fakeTokens struct {
	mu       sync.Mutex
	redeemed []string
	fail     error
}

func (f *fakeTokens) Issue(_ context.Context, userID, username string) (string, time.Time, error) {
	if f.fail != nil {
		return "", time.Time{}, f.fail
	}
	return "token-for-" + userID + "-" + username, acceptedAt, nil
}

func (f *fakeTokens) Redeem(_ context.Context, token string) (tokens.Claims, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.redeemed = append(f.redeemed, token)
	if f.fail != nil {
		return tokens.Claims{}, f.fail
	}
	user, ok := strings.CutPrefix(token, "token-for-")
	if !ok {
		return tokens.Claims{}, tokens.ErrRejected
	}
	return tokens.Claims{UserID: user}, nil
}

func (f *fakeTokens) uses() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.redeemed)
}

// fakeConnector upgrades by hand and sends one line: enough to see that the
// connection can be taken over.
type fakeConnector struct{ refuse, fail error }

func (f *fakeConnector) Admits(*http.Request) error { return f.refuse }

func (f *fakeConnector) Serve(w http.ResponseWriter, _ *http.Request, userID string) error {
	if f.fail != nil {
		return f.fail
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello " + userID + "\n")
	_ = rw.Flush()
	return nil
}

// gateway is the edge under test on a real server.
type gateway struct {
	*httptest.Server
	api       *api.API
	log       *fakeLog
	tokens    *fakeTokens
	connector *fakeConnector
	registry  *prometheus.Registry
	output    *lockedBuffer // what was logged
	ready     *api.Readiness
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newEdge makes an edge with fakes around it, without a server.
func newEdge(cfg api.Config, level slog.Level) *gateway {
	g := &gateway{
		log:       &fakeLog{heads: map[string]int64{}, keys: map[string]keyed{}},
		tokens:    &fakeTokens{},
		connector: &fakeConnector{},
		registry:  prometheus.NewRegistry(),
		output:    &lockedBuffer{},
		ready:     &api.Readiness{Checks: []api.Check{{Name: "log"}}},
	}
	g.api = api.New(cfg, api.Deps{
		Log: g.log, Tokens: g.tokens, Identity: fakeIdentity{}, Keys: fakeKeys{}, Connector: g.connector,
		Ready:   func(context.Context) api.Readiness { return *g.ready },
		Metrics: g.registry, Gatherer: g.registry,
		Logger: slog.New(slog.NewTextHandler(g.output, &slog.HandlerOptions{Level: level})),
	})
	return g
}

func start(t *testing.T, cfg api.Config) *gateway {
	t.Helper()
	g := newEdge(cfg, slog.LevelDebug)
	g.Server = httptest.NewUnstartedServer(g.api.Handler())
	// net/http reports a client's broken connection there; it is not of interest.
	g.Server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	g.Server.Config.MaxHeaderBytes = 16 << 10
	g.Server.Start()
	t.Cleanup(g.Close)
	return g
}

// reply is an answer, read and closed.
type reply struct {
	*http.Response
	body []byte
}

func (g *gateway) do(t *testing.T, method, path, body string, header ...string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, g.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == "" {
			r.Header.Del(header[i])
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	return g.send(t, r)
}

func (g *gateway) send(t *testing.T, r *http.Request) reply {
	t.Helper()
	// No redirects, and no connection that a failed request may have spoilt.
	resp, err := g.Client().Transport.RoundTrip(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL.Path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read the answer: %v", r.Method, r.URL.Path, err)
	}
	return reply{resp, b}
}

// post posts to /v1/messages as a publisher that may do everything.
func (g *gateway) post(t *testing.T, body string, header ...string) reply {
	t.Helper()
	return g.do(t, "POST", "/v1/messages", body, append([]string{"Authorization", "Bearer " + publishKey}, header...)...)
}

// works fails the test if the next ordinary request does not succeed.
func (g *gateway) works(t *testing.T) {
	t.Helper()
	if r := g.post(t, `{"userId":"next","message":"next"}`); r.StatusCode != http.StatusAccepted {
		t.Fatalf("the next request failed: %d %s", r.StatusCode, r.body)
	}
}

// document is a problem document.
type document struct {
	Type    string          `json:"type"`
	Title   string          `json:"title"`
	Status  int             `json:"status"`
	Detail  string          `json:"detail"`
	Field   string          `json:"field"`
	Limit   int64           `json:"limit"`
	Unit    string          `json:"unit"`
	Results json.RawMessage `json:"results"`
}

// problem checks that an answer is a whole problem document.
func (r reply) problem(t *testing.T, status int, name string) document {
	t.Helper()
	if r.StatusCode != status {
		t.Fatalf("status %d, want %d; body %s", r.StatusCode, status, r.body)
	}
	if got := r.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q, want application/problem+json", got)
	}
	var d document
	if err := strictly(r.body, &d); err != nil {
		t.Fatalf("problem document %s: %v", r.body, err)
	}
	if d.Type != "urn:restante:problem:"+name || d.Status != status || d.Title == "" || d.Detail == "" {
		t.Errorf("got %s, want type %q, status %d, a title and a detail", r.body, name, status)
	}
	return d
}

func strictly(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the document")
	}
	return nil
}

func newRegistry() *prometheus.Registry { return prometheus.NewRegistry() }
