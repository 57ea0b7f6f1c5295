package floor_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"restante/cmd/bench/floor"
	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

type client struct {
	t    *testing.T
	addr string
}

func start(t *testing.T) (client, *testdb.Database) {
	t.Helper()
	db := testdb.New(t)
	server, err := floor.New(t.Context(), db.Pool, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return client{t, listener.Addr().String()}, db
}

func (c client) post(query, body string) int {
	c.t.Helper()
	answer, err := http.Post("http://"+c.addr+"/publish?"+query, "application/json", strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	answer.Body.Close()
	return answer.StatusCode
}

func (c client) connect(user int) *websocket.Conn {
	c.t.Helper()
	conn, _, err := websocket.Dial(c.t.Context(), fmt.Sprintf("ws://%s/ws?user=%d", c.addr, user), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.CloseNow() })
	return conn
}

func (c client) want(conn *websocket.Conn, id int64, body string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	_, text, err := conn.Read(ctx)
	if want := fmt.Sprintf(`{"seq":%d,"data":%s}`, id, body); err != nil || string(text) != want {
		c.t.Fatalf("read %q, %v; want %q", text, err, want)
	}
}

// TestKeepsUntilConfirmed: what is stored is sent, in order, now or to who
// connects later, again if it was not confirmed, and gone once it was.
func TestKeepsUntilConfirmed(t *testing.T) {
	t.Parallel()
	c, db := start(t)
	for _, body := range []string{`1`, `2`} {
		if code := c.post("user=5", body); code != http.StatusAccepted {
			t.Fatalf("post: %d", code)
		}
	}
	conn := c.connect(5)
	c.want(conn, 1, "1")
	c.want(conn, 2, "2")
	c.post("user=6", `9`)
	c.post("user=5", `{"a":3}`)
	c.want(conn, 4, `{"a":3}`)
	conn.CloseNow()

	conn = c.connect(5)
	c.want(conn, 1, "1")
	if err := conn.Write(t.Context(), websocket.MessageText, []byte("2")); err != nil {
		t.Fatal(err)
	}
	left := -1
	for deadline := time.Now().Add(10 * time.Second); left != 2 && time.Now().Before(deadline); {
		if err := db.Pool.QueryRow(t.Context(), `SELECT count(*) FROM floor`).Scan(&left); err != nil {
			t.Fatal(err)
		}
	}
	if left != 2 {
		t.Fatalf("%d rows are left, want the one that was not confirmed and the other user's", left)
	}
	c.want(c.connect(5), 4, `{"a":3}`)
}

// TestGroup: the lines of a group are messages like any other.
func TestGroup(t *testing.T) {
	t.Parallel()
	c, _ := start(t)
	group := func(text string) int {
		answer, err := http.Post("http://"+c.addr+"/publish-group", "text/plain", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	if code := group("5 1\n6 {\"a\": 2}\n5 3\n"); code != http.StatusAccepted {
		t.Fatalf("post: %d", code)
	}
	for text, want := range map[string]int{"x 1\n": 400, "5\n": 400, "5 1": 400, "": 202} {
		if code := group(text); code != want {
			t.Errorf("group %q: %d, want %d", text, code, want)
		}
	}
	conn := c.connect(5)
	c.want(conn, 1, "1")
	c.want(conn, 3, "3")
	c.want(c.connect(6), 2, `{"a": 2}`)
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	c, _ := start(t)
	for query, body := range map[string]string{"": "1", "user=x": "1", "user=99999999999": "1", "user=1": strings.Repeat("x", 64<<10+1)} {
		if code := c.post(query, body); code != http.StatusBadRequest {
			t.Errorf("POST ?%s with %d bytes: %d, want 400", query, len(body), code)
		}
	}
	answer, err := http.Get("http://" + c.addr + "/ws?user=x")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusBadRequest {
		t.Errorf("GET /ws?user=x: %d, want 400", answer.StatusCode)
	}
}
