package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"restante/internal/testdb"
)

// TestRunIt is the README's section "Run it": migrate, a keyring, an API key for
// a back end, replicas; then that back end, the sample application, as a process
// of its own, and clients that use the seed's own paths with bare ID tokens.
func TestRunIt(t *testing.T) {
	parallel(t)
	w := prepareWorld(t, testdb.Empty(t).URL)
	database := []string{"DATABASE_URL=" + w.databaseURL}
	do(t, database, "migrate", "up")
	key := strings.TrimSpace(do(t, database, "msg", "keys", "create", "-name", "billing"))
	w.secret(key)
	a, b := w.server(), w.server()
	sample := start(t, []string{"RESTANTE_API_KEY=" + key}, "sample", "-listen", "127.0.0.1:0", "-gateway-url", a.url, "-oidc-issuer", w.issuer.url)
	sampleURL := "http://" + sample.says(sample.stderr, `"listen":"([^"]+)"`)[1]

	// A user connects as the seed's client does.
	idToken := w.idToken("ann")
	conn := seedConnection(t, w, b, idToken)

	// A long task, and a message that the back end posts itself on the seed's path.
	answer, err := w.send(t.Context(), "POST", sampleURL+"/process", idToken, `{"userId":"ann","message":"a result","wait":0}`)
	if err != nil || answer.status != http.StatusAccepted {
		t.Fatalf("POST /process: %d %s %v", answer.status, answer.body, err)
	}
	reads(t, conn, "a result")
	answer, err = w.send(t.Context(), "POST", a.url+"/message", "Bearer "+key, `{"userId":"ann","message":"a \"notification\""}`)
	if err != nil || answer.status != http.StatusAccepted {
		t.Fatalf("POST /message: %d %s %v", answer.status, answer.body, err)
	}
	reads(t, conn, `a "notification"`)

	// The key may publish, and nothing else; revoked, it may nothing.
	answer, err = w.send(t.Context(), "GET", a.url+"/v1/users/ann", "Bearer "+key, "")
	if err != nil {
		t.Fatal(err)
	}
	answer.problem(t, http.StatusForbidden)
	do(t, database, "msg", "keys", "revoke", key)
	for _, s := range []*server{a, b} {
		eventually(t, "a revoked key is refused", func() bool {
			answer, err := w.send(t.Context(), "POST", s.url+"/message", "Bearer "+key, `{"userId":"nobody","message":"x"}`)
			return err == nil && answer.status == http.StatusUnauthorized
		})
	}

	for _, p := range []*process{sample, a.process, b.process} {
		p.signal(syscall.SIGTERM)
	}
	if _, _, err := conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		t.Errorf("the connection ended with %v", err)
	}
	for _, p := range []*process{sample, a.process, b.process} {
		p.ends(0)
	}
	if strings.Contains(sample.stdout.String()+sample.stderr.String(), idToken) || strings.Contains(sample.stderr.String(), key) {
		t.Error("a credential is in the sample application's log")
	}
}

// seedConnection connects as the seed's script does: GET /tokens with the bare
// ID token, then /ws?token=.
func seedConnection(t *testing.T, w *world, s *server, idToken string) *websocket.Conn {
	t.Helper()
	answer, err := w.send(t.Context(), "GET", s.url+"/tokens", idToken, "")
	var issued struct{ Token string }
	if err != nil || answer.status != http.StatusOK || json.Unmarshal(answer.body, &issued) != nil {
		t.Fatalf("GET /tokens: %d %s %v", answer.status, answer.body, err)
	}
	w.secret(issued.Token)
	conn, err := websocketTo(t.Context(), s, "/ws", issued.Token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return conn
}

// reads reads the next text frame of a plain connection.
func reads(t *testing.T, conn *websocket.Conn, want string) {
	t.Helper()
	kind, text, err := conn.Read(t.Context())
	if err != nil || kind != websocket.MessageText || string(text) != want {
		t.Fatalf("received %q, %v, want %q", text, err, want)
	}
}
