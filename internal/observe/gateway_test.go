package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgxpool"
	metrics "github.com/prometheus/client_golang/prometheus"

	"restante/internal/devstack"
	"restante/internal/events"
	"restante/internal/publishers"
	"restante/internal/testdb"
	"restante/internal/tokens"
)

// world is a PostgreSQL that may be killed, two replicas, and what publishers
// and users need.
type world struct {
	t        testing.TB
	postgres *devstack.Postgres
	url      string
	pool     *pgxpool.Pool
	keyring  string
	tokens   *tokens.Tokens
	log      *events.Log // not running: it takes the census when asked
	key      string
	web      *http.Client
	replicas []*replica
}

// replica is a gateway process; it is started again on the same admin address.
type replica struct {
	*child
	address, admin string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	w := &world{t: t, postgres: testdb.Cluster(t), keyring: filepath.Join(t.TempDir(), "keys.json"), web: &http.Client{Transport: transport, Timeout: 10 * time.Second}}
	w.url = testdb.Migrated(t, w.postgres)
	pool, err := pgxpool.New(t.Context(), w.url+"&pool_max_conns=8")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	w.pool = pool
	key, err := tokens.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := tokens.WriteFile(w.keyring, []tokens.Key{key}); err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.OpenKeyring(w.keyring, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.tokens = tokens.New(pool, ring, tokens.Config{TTL: time.Hour}, metrics.NewRegistry())
	if _, w.key, err = publishers.New(pool, metrics.NewRegistry()).Create(t.Context(), "test", []string{"publish"}, ""); err != nil {
		t.Fatal(err)
	}
	w.log = events.New(events.Config{Durable: pool, Relaxed: pool, Upkeep: pool, OnCommit: func([]events.Head, iter.Seq[events.Entry]) {}, Lease: 12 * time.Second, Metrics: metrics.NewRegistry()})
	w.replicas = []*replica{w.start("127.0.0.1:0", 5*time.Minute), w.start("127.0.0.1:0", 2*time.Second)}
	w.census() // River's leader takes its own within seconds, but seconds are minutes here
	return w
}

var serving = regexp.MustCompile(`"msg":"serving","replica":"[^"]+","address":"([^"]+)","admin":"([^"]+)"`)

const (
	relaxedConns   = 12
	maxConnections = 300
)

// start starts a replica whose clients have so long to acknowledge.
func (w *world) start(admin string, ackTimeout time.Duration) *replica {
	w.t.Helper()
	c := start(w.t, []string{"DATABASE_URL=" + w.url}, serverBinary,
		"-listen", "127.0.0.1:0", "-drain-delay", "0", "-admin-listen", admin, "-oidc-issuer", "http://127.0.0.1:1", "-token-keyring", w.keyring,
		"-deliver-delay", "1s", "-ack-timeout", ackTimeout.String(), "-sessions-per-user", "2", "-max-connections", strconv.Itoa(maxConnections),
		"-db-durable-conns", "3", "-db-relaxed-conns", strconv.Itoa(relaxedConns))
	found := c.says(serving)
	return &replica{c, found[1], found[2]}
}

// client is a connection of a user that receives, and acknowledges while it may.
type client struct {
	token string // used up
	conn  *websocket.Conn
	done  chan struct{}

	mu     sync.Mutex
	silent bool  // acknowledges nothing
	last   int64 // received
}

// connect opens a connection: restante.v1, or plain without a subprotocol.
func (w *world) connect(r *replica, user string, subprotocols ...string) *client {
	w.t.Helper()
	c, err := w.tryConnect(w.t.Context(), r, user, &client{}, subprotocols...)
	if err != nil {
		w.t.Fatalf("connect: %v", err)
	}
	w.t.Cleanup(c.close)
	return c
}

// tryConnect is connect for those that may fail.
func (w *world) tryConnect(ctx context.Context, r *replica, user string, c *client, subprotocols ...string) (_ *client, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if c.token, _, err = w.tokens.Issue(ctx, user, user); err != nil {
		return nil, err
	}
	c.conn, _, err = websocket.Dial(ctx, "ws://"+r.address+"/v1/connect?token="+c.token, &websocket.DialOptions{Subprotocols: subprotocols})
	if err != nil {
		return nil, err
	}
	c.done = make(chan struct{})
	go c.read()
	return c, nil
}

func (c *client) read() {
	defer close(c.done)
	for {
		_, text, err := c.conn.Read(context.Background())
		if err != nil {
			return
		}
		var frame struct {
			Kind string
			Seq  int64
		}
		if json.Unmarshal(text, &frame) != nil || frame.Kind != "message" {
			continue // a plain message, or a frame that wants no answer
		}
		c.mu.Lock()
		c.last = frame.Seq
		silent := c.silent
		c.mu.Unlock()
		if !silent {
			c.ack(frame.Seq)
		}
	}
}

func (c *client) ack(seq int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = c.conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"kind":"ack","seq":%d}`, seq)) // read notices
}

func (c *client) hush() {
	c.mu.Lock()
	c.silent = true
	c.mu.Unlock()
}

// speak ends the silence: everything is acknowledged.
func (c *client) speak() {
	c.mu.Lock()
	c.silent = false
	last := c.last
	c.mu.Unlock()
	c.ack(last)
}

func (c *client) close() {
	_ = c.conn.CloseNow() // it may be closed already
	<-c.done
}

// request sends a request to a replica and returns the status, 0 for no answer.
func (w *world) request(method, url, body string, header ...string) int {
	request, err := http.NewRequestWithContext(w.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		return 0
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := w.web.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body) // so that the connection is used again
	return response.StatusCode
}

func (w *world) post(r *replica, user, key string) int {
	var header []string
	if key != "" {
		header = []string{"Idempotency-Key", key}
	}
	return w.postBody(r, fmt.Sprintf(`{"userId":%q,"message":"hello"}`, user), header...)
}

func (w *world) postBody(r *replica, body string, header ...string) int {
	header = append(header, "Authorization", "Bearer "+w.key, "Content-Type", "application/json")
	return w.request("POST", "http://"+r.address+"/v1/messages", body, header...)
}

// accepted posts a message that must be accepted.
func (w *world) accepted(r *replica, user string) {
	w.t.Helper()
	if status := w.post(r, user, ""); status != http.StatusAccepted {
		w.t.Fatalf("post to %s: %d", user, status)
	}
}

// tryToConnect asks for a connection with a token that was used.
func (w *world) tryToConnect(r *replica, used string) {
	w.request("GET", "http://"+r.address+"/v1/connect?token="+used, "",
		"Connection", "Upgrade", "Upgrade", "websocket", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

// work is the life of a small gateway, again and again until ctx ends: messages
// for users who are here or there or away, repeated ones, and somebody who tries
// to connect with a token that was used.
func (w *world) work(ctx context.Context, used string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		r := w.replicas[i%2]
		w.post(r, []string{"ann", "bob", "away"}[i%3], "")
		w.post(r, "ann", fmt.Sprint("key-", i/10))
		if i%5 == 0 {
			w.tryToConnect(r, used)
		}
	}
}

func (w *world) exec(sql string) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// holds waits until a condition on the database holds.
func (w *world) holds(what, sql string) {
	w.t.Helper()
	eventually(w.t, what, func() (holds bool) {
		return w.pool.QueryRow(w.t.Context(), sql).Scan(&holds) == nil && holds
	})
}

func (w *world) census() {
	w.t.Helper()
	eventually(w.t, "a census", func() bool { return w.log.TakeCensus(w.t.Context()) == nil })
}

func readFile(t testing.TB, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
