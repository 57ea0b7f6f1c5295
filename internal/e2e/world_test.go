package e2e

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"restante/internal/checker"
)

// world is a database, an issuer, a keyring, an API key and the replicas that
// share them, set up with the commands that an operator would use. At the end of
// the test it looks for credentials in the replicas' logs.
type world struct {
	t           testing.TB
	databaseURL string
	issuer      *issuer
	keyring     string
	key         string // may publish and read
	web         *http.Client
	check       *checker.Checker

	mu      sync.Mutex
	secrets map[string]struct{}
	servers []*server
	users   map[string]struct{} // that the checker knows of
}

// newWorld needs a migrated database.
func newWorld(t testing.TB, databaseURL string) *world {
	t.Helper()
	w := prepareWorld(t, databaseURL)
	w.createKey()
	return w
}

func (w *world) createKey() {
	w.t.Helper()
	w.key = strings.TrimSpace(do(w.t, []string{"DATABASE_URL=" + w.databaseURL}, "msg", "keys", "create", "-name", "test", "-scopes", "publish,read"))
	w.secret(w.key)
}

// prepareWorld is newWorld without an API key, for databases that are not ready.
func prepareWorld(t testing.TB, databaseURL string) *world {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	w := &world{
		t: t, databaseURL: databaseURL, issuer: startIssuer(t), keyring: filepath.Join(t.TempDir(), "keys.json"),
		web: &http.Client{Transport: transport, Timeout: patience}, check: checker.New(),
		secrets: map[string]struct{}{}, users: map[string]struct{}{},
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		w.findSecrets()
	})
	do(t, nil, "msg", "keyring", "new", "-file", w.keyring)
	return w
}

// server is one replica.
type server struct {
	*process
	w          *world
	url, admin string
}

// server starts a replica and waits until it is ready.
func (w *world) server(flags ...string) *server {
	w.t.Helper()
	s := w.launch(flags...)
	s.serving()
	return s
}

// launch starts a replica.
func (w *world) launch(flags ...string) *server {
	w.t.Helper()
	return w.launchAs([]string{"server"}, flags...)
}

// launchAs starts a replica with a command that ends in "server".
func (w *world) launchAs(command []string, flags ...string) *server {
	w.t.Helper()
	args := append(command[1:len(command):len(command)], "-listen", "127.0.0.1:0", "-admin-listen", "127.0.0.1:0", "-oidc-issuer", w.issuer.url,
		"-token-keyring", w.keyring, "-db-durable-conns", "3", "-db-relaxed-conns", "6", "-drain-delay", "0")
	args = append(args, flags...)
	s := &server{w: w, process: start(w.t, []string{"DATABASE_URL=" + w.databaseURL}, command[0], args...)}
	w.mu.Lock()
	w.servers = append(w.servers, s)
	w.mu.Unlock()
	return s
}

// serving learns the replica's addresses from its log and waits for /readyz.
func (s *server) serving() {
	s.t.Helper()
	line := s.says(s.stderr, `"msg":"serving".*"address":"([^"]+)","admin":"([^"]+)"`)
	s.url, s.admin = "http://"+line[1], "http://"+line[2]
	eventually(s.t, "a replica is ready", func() bool { return s.readyz() == http.StatusOK })
}

// readyz returns the status of /readyz, 0 for no answer.
func (s *server) readyz() int {
	answer, err := s.w.web.Get(s.admin + "/readyz")
	if err != nil {
		return 0
	}
	answer.Body.Close()
	return answer.StatusCode
}

// secret remembers what must not be in a log.
func (w *world) secret(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets[text] = struct{}{}
}

// findSecrets looks for the secrets, and for long parts of them: what has dots
// has a header that says nothing, and then parts that do.
func (w *world) findSecrets() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, s := range w.servers {
		log := s.stdout.String() + s.stderr.String()
		for secret := range w.secrets {
			for j, part := range strings.Split(secret, ".") {
				if (j > 0 || !strings.Contains(secret, ".")) && len(part) >= 20 && strings.Contains(log, part) {
					w.t.Errorf("a credential (part %d of %.12s…, %d bytes) is in the log of replica %d", j, secret, len(secret), i)
				}
			}
		}
	}
}

// idToken signs a user in.
func (w *world) idToken(user string) string {
	token := sign(w.t, w.issuer.signer, w.issuer.claims(user))
	w.secret(token)
	return token
}

// pool connects to the database.
func (w *world) pool() *pgxpool.Pool {
	w.t.Helper()
	pool, err := pgxpool.New(w.t.Context(), w.databaseURL)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(pool.Close)
	return pool
}

// knows notes that the checker is told of a user.
func (w *world) knows(user string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.users[user] = struct{}{}
}

// verdict waits until everything has arrived and the log has been told of it,
// and asks the checker.
func (w *world) verdict() checker.Report {
	w.t.Helper()
	eventually(w.t, "everything has arrived", func() bool { return w.check.Waiting() == 0 })
	pool := w.pool()
	for user := range w.users {
		var head, acked int64
		if err := pool.QueryRow(w.t.Context(), "SELECT head, acked FROM streams WHERE user_id = $1", user).Scan(&head, &acked); err != nil {
			w.t.Fatalf("stream of %s: %v", user, err)
		}
		w.check.Stream(user, head, acked)
	}
	report := w.check.Report()
	if !report.Clean() {
		w.t.Errorf("%v", report)
	} else {
		w.t.Log(report)
	}
	return report
}
