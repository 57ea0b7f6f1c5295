package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"restante/internal/testdb"
)

const goodBody = `{"userId":"ann","message":1}`

// raw is a connection on which anything can be said.
type raw struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func dialRaw(t testing.TB, s *server) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &raw{t: t, conn: conn, in: bufio.NewReader(conn)}
}

// say writes text while the answer is read: who sends too much is answered
// before he has finished.
func (r *raw) say(text string) (a answer, closes bool) {
	r.t.Helper()
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = io.WriteString(r.conn, text) // the server may close before it has read everything
	}()
	response, err := http.ReadResponse(r.in, nil)
	if err != nil {
		r.t.Fatalf("%.60q was not answered: %v", text, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	if response.Close {
		r.conn.Close()
	}
	<-written
	return answer{response.StatusCode, response.Header, body}, response.Close
}

// works posts a good message, on the connection given or else a new one.
func works(t testing.TB, w *world, s *server, on *raw) {
	t.Helper()
	if on == nil {
		on = dialRaw(t, s)
	}
	if a, _ := on.say(post(w.key, goodBody)); a.status != http.StatusAccepted {
		t.Errorf("the next request was answered %d %s", a.status, a.body)
	}
}

func post(key, body string) string {
	return fmt.Sprintf("POST /v1/messages HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", key, len(body), body)
}

func chunked(key, body string) string {
	return fmt.Sprintf("POST /v1/messages HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", key, len(body), body)
}

// TestBadRequests sends what publishers and strangers get wrong, byte for byte,
// and after each a good request.
func TestBadRequests(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s := w.server()
	request := func(line string, header ...string) string {
		return line + " HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + w.key + "\r\n" + strings.Join(append(header, "", ""), "\r\n")
	}
	message := func(user, text string) string { return post(w.key, `{"userId":"`+user+`","message":"`+text+`"}`) }
	for _, c := range []struct {
		name, say string
		status    int
		kind      string
	}{
		{"malformed JSON", post(w.key, `{"userId":"ann",`), 400, "malformed-json"},
		{"no body", post(w.key, ""), 400, "malformed-json"},
		{"two bodies", post(w.key, goodBody+goodBody), 400, "malformed-json"},
		{"unknown field", post(w.key, `{"userId":"ann","message":1,"prio":1}`), 400, "unknown-field"},
		{"no user", post(w.key, `{"message":1}`), 422, "invalid-message"},
		{"no message", post(w.key, `{"userId":"ann"}`), 422, "invalid-message"},
		{"empty user", message("", "x"), 422, "invalid-message"},
		{"long user", message(strings.Repeat("é", 129), "x"), 422, "invalid-message"},
		{"control character in the user", message(`a\u0007b`, "x"), 422, "invalid-message"},
		{"NUL in the user", message(`a\u0000b`, "x"), 422, "invalid-message"},
		{"raw NUL", message("ann", "a\x00b"), 400, "malformed-json"},
		{"invalid UTF-8", message("ann", "\xff\xfe"), 400, "invalid-utf-8"},
		{"half a surrogate in the user", message(`a\ud800`, "x"), 422, "invalid-message"},
		{"oversized message", message("ann", strings.Repeat("x", 64<<10)), 413, "message-too-large"},
		{"10 MB", message("ann", strings.Repeat("x", 10<<20)), 413, "body-too-large"},
		{"10 MB in chunks", chunked(w.key, `{"userId":"ann","message":"`+strings.Repeat("x", 10<<20)+`"}`), 413, "body-too-large"},
		{"10 MB of brackets", post(w.key, strings.Repeat("[", 10<<20)), 413, "body-too-large"},
		{"deep", post(w.key, `{"userId":"ann","message":`+strings.Repeat("[", 30_000)+strings.Repeat("]", 30_000)+"}"), 422, "message-too-deep"},
		{"1001 messages", post(w.key, "["+strings.Repeat(goodBody+",", 1000)+goodBody+"]"), 422, "too-many-messages"},
		{"wrong method", request("PUT /v1/messages", "Content-Length: 0"), 405, "method-not-allowed"},
		{"GET of a POST", request("GET /v1/messages"), 405, "method-not-allowed"},
		{"no content type", request("POST /v1/messages", "Content-Length: 2") + "{}", 415, "unsupported-media-type"},
		{"a form", request("POST /v1/messages", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 2") + "{}", 415, "unsupported-media-type"},
		{"another charset", request("POST /v1/messages", "Content-Type: application/json; charset=utf-16", "Content-Length: 2") + "{}", 415, "unsupported-media-type"},
		{"broken chunks", request("POST /v1/messages", "Content-Type: application/json", "Transfer-Encoding: chunked") + "zz\r\n", 400, "incomplete-body"},
		{"slow body", request("POST /v1/messages", "Content-Type: application/json", "Content-Length: 100") + `{"userId"`, 408, "body-timeout"},
		{"no credential", "GET /v1/users/ann HTTP/1.1\r\nHost: gateway\r\n\r\n", 401, "unauthenticated"},
		{"two credentials", request("GET /v1/users/ann", "Authorization: Bearer x"), 401, "unauthenticated"},
		{"unknown key", post("rk_0000000000000000_"+strings.Repeat("0", 64), goodBody), 401, "unauthenticated"},
		{"unknown user", request("GET /v1/users/nobody"), 404, "unknown-user"},
		{"bad user in the path", request("GET /v1/users/a%00b"), 400, "invalid-request"},
		{"bad seq in the path", request("GET /v1/users/ann/messages/-1"), 400, "invalid-request"},
		{"unknown path", request("GET /v2/messages"), 404, "not-found"},
		{"no upgrade", request("GET /v1/connect?token=x"), 426, "upgrade-required"},
		{"empty Idempotency-Key", strings.Replace(post(w.key, goodBody), "Host:", "Idempotency-Key:\r\nHost:", 1), 400, "invalid-idempotency-key"},
		// What net/http refuses before a handler sees it: no problem document.
		{"no HTTP", "EHLO gateway\r\n\r\n", 400, ""},
		{"no host", "GET / HTTP/1.1\r\n\r\n", 400, ""},
		{"two lengths", request("POST /v1/messages", "Content-Length: 1", "Content-Length: 2") + "{}", 400, ""},
		{"long header", request("GET /", "X-Long: "+strings.Repeat("x", 64<<10)), 431, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			on := dialRaw(t, s)
			a, closed := on.say(c.say)
			switch {
			case c.kind == "" && a.status != c.status:
				t.Errorf("answer %d %.200s, want %d", a.status, a.body, c.status)
			case c.kind != "":
				p := a.problem(t, c.status)
				if p.Type != "urn:restante:problem:"+c.kind {
					t.Errorf("answer %s, want %s", p.Type, c.kind)
				}
				if c.status == 413 && p.Limit == 0 {
					t.Errorf("the limit is not told: %s", a.body)
				}
			}
			if closed {
				on = nil
			}
			works(t, w, s, on)
		})
	}
}
