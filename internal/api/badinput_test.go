package api_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"restante/internal/api"
)

func TestBadInput(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	const ok = `{"userId":"ann","message":1}`
	for _, c := range []struct {
		name   string
		body   string
		status int
		kind   string
		field  string
	}{
		{"empty body", "", 400, "malformed-json", ""},
		{"white space", " \n", 400, "malformed-json", ""},
		{"cut off", `{"userId":"ann","message":`, 400, "malformed-json", ""},
		{"single quotes", `{'userId':'ann','message':1}`, 400, "malformed-json", ""},
		{"trailing comma", `{"userId":"ann","message":1,}`, 400, "malformed-json", ""},
		{"trailing data", ok + ok, 400, "malformed-json", ""},
		{"trailing word", ok + " x", 400, "malformed-json", ""},
		{"byte order mark", "\ufeff" + ok, 400, "malformed-json", ""},
		{"NaN", `{"userId":"ann","message":NaN}`, 400, "malformed-json", ""},
		{"raw NUL", "{\"userId\":\"ann\",\"message\":\"a\x00b\"}", 400, "malformed-json", ""},
		{"raw newline in a string", "{\"userId\":\"ann\",\"message\":\"a\nb\"}", 400, "malformed-json", ""},
		{"message too deep", `{"userId":"ann","message":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + "}", 422, "message-too-deep", "message"},
		{"message too deep, objects", `{"userId":"ann","message":` + strings.Repeat(`{"a":`, 65) + "1" + strings.Repeat("}", 65) + "}", 422, "message-too-deep", "message"},
		{"message much too deep", `{"userId":"ann","message":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}", 422, "message-too-deep", "message"},
		{"item too deep", `[{"userId":"ann","message":` + strings.Repeat("[", 65) + strings.Repeat("]", 65) + "}]", 422, "message-too-deep", ""},
		{"item much too deep", `[{"userId":"ann","message":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + "}]", 400, "malformed-json", ""},
		{"half a million escapes", `[{"userId":"ann","message":"` + strings.Repeat(`\n`, 500_000) + `"}]`, 413, "message-too-large", ""},
		{"a million items", `[` + strings.Repeat("1,", 1_000_000) + `1]`, 422, "too-many-messages", ""},
		{"a million users", `{"message":1,"users":[` + strings.Repeat("1,", 100_000) + `1]}`, 422, "too-many-messages", "users"},
		{"one bad item stops all", `[` + ok + `,{"userId":"ann",]`, 400, "malformed-json", ""},
		{"invalid UTF-8 in the message", "{\"userId\":\"ann\",\"message\":\"a\xffb\"}", 400, "invalid-utf-8", ""},
		{"invalid UTF-8 in the user", "{\"userId\":\"\xc0\x80\",\"message\":1}", 400, "invalid-utf-8", ""},
		{"UTF-16", "\xff\xfe{\x00}\x00", 400, "invalid-utf-8", ""},
		{"a string", `"ann"`, 422, "invalid-message", ""},
		{"null", `null`, 422, "invalid-message", ""},
		{"a number", `42`, 422, "invalid-message", ""},
		{"unknown field", `{"userId":"ann","message":1,"colour":"red"}`, 400, "unknown-field", "colour"},
		{"wrong case", `{"userID":"ann","message":1}`, 400, "unknown-field", "userID"},
		{"unknown field, quoted", `{"userId":"ann","message":1,"a\"b\\":1}`, 400, "unknown-field", `a"b\`},
		{"unknown field, long", `{"` + strings.Repeat("é", 4000) + `":1}`, 400, "unknown-field", strings.Repeat("é", 32) + "…"},
		{"field twice", `{"userId":"ann","message":1,"message":2}`, 400, "duplicate-field", "message"},
		{"field twice, escaped", `{"userId":"ann","message":1,"us\u0065rId":"bob"}`, 400, "duplicate-field", `userId`},
		{"no user", `{"message":1}`, 422, "invalid-message", "userId"},
		{"no message", `{"userId":"ann"}`, 422, "invalid-message", "message"},
		{"nothing", `{}`, 422, "invalid-message", "userId"},
		{"message null", `{"userId":"ann","message":null}`, 422, "invalid-message", "message"},
		{"user empty", `{"userId":"","message":1}`, 422, "invalid-message", "userId"},
		{"user null", `{"userId":null,"message":1}`, 422, "invalid-message", "userId"},
		{"user a number", `{"userId":7,"message":1}`, 422, "invalid-message", "userId"},
		{"user a list", `{"userId":["ann"],"message":1}`, 422, "invalid-message", "userId"},
		{"user too long", `{"userId":"` + strings.Repeat("u", 257) + `","message":1}`, 422, "invalid-message", "userId"},
		{"user with NUL", `{"userId":"a\u0000b","message":1}`, 422, "invalid-message", "userId"},
		{"user with newline", `{"userId":"a\nb","message":1}`, 422, "invalid-message", "userId"},
		{"user with DEL", "{\"userId\":\"a\x7fb\",\"message\":1}", 422, "invalid-message", "userId"},
		{"user with C1", "{\"userId\":\"a\u0085b\",\"message\":1}", 422, "invalid-message", "userId"},
		{"user with lone surrogate", `{"userId":"a\ud800b","message":1}`, 422, "invalid-message", "userId"},
		{"user with U+FFFD", "{\"userId\":\"a\ufffdb\",\"message\":1}", 422, "invalid-message", "userId"},
		{"user and users", `{"userId":"ann","users":["bob"],"message":1}`, 422, "invalid-message", "users"},
		{"users a string", `{"users":"bob","message":1}`, 422, "invalid-message", "users"},
		{"type a number", `{"userId":"ann","message":1,"type":1}`, 422, "invalid-message", "type"},
		{"type null", `{"userId":"ann","message":1,"type":null}`, 422, "invalid-message", "type"},
		{"type too long", `{"userId":"ann","message":1,"type":"` + strings.Repeat("t", 129) + `"}`, 422, "invalid-message", "type"},
		{"type with NUL", `{"userId":"ann","message":1,"type":"\u0000"}`, 422, "invalid-message", "type"},
		{"ttl zero", `{"userId":"ann","message":1,"ttl":0}`, 422, "invalid-message", "ttl"},
		{"ttl negative", `{"userId":"ann","message":1,"ttl":-5}`, 422, "invalid-message", "ttl"},
		{"ttl a fraction", `{"userId":"ann","message":1,"ttl":1.5}`, 422, "invalid-message", "ttl"},
		{"ttl a string", `{"userId":"ann","message":1,"ttl":"60"}`, 422, "invalid-message", "ttl"},
		{"ttl null", `{"userId":"ann","message":1,"ttl":null}`, 422, "invalid-message", "ttl"},
		{"ttl too long", `{"userId":"ann","message":1,"ttl":2592001}`, 422, "invalid-message", "ttl"},
		{"ttl huge", `{"userId":"ann","message":1,"ttl":99999999999999999999}`, 422, "invalid-message", "ttl"},
		{"key with space", `{"userId":"ann","message":1,"idempotencyKey":"a b"}`, 400, "invalid-idempotency-key", "idempotencyKey"},
		{"message too large", `{"userId":"ann","message":"` + strings.Repeat("x", 64<<10) + `"}`, 413, "message-too-large", "message"},
		{"10 MB object", `{"userId":"ann","message":"` + strings.Repeat("x", 10<<20) + `"}`, 413, "body-too-large", ""},
		{"10 MB array", `[` + strings.Repeat(ok+",", 10<<20/29) + ok + `]`, 413, "body-too-large", ""},
		{"10 MB of white space", strings.Repeat(" ", 10<<20), 413, "body-too-large", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := g.log.count()
			for _, chunked := range []bool{false, true} {
				r, err := http.NewRequest("POST", g.URL+"/v1/messages", strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				if chunked {
					r.ContentLength, r.Body = -1, io.NopCloser(strings.NewReader(c.body))
				}
				r.Header.Set("Authorization", "Bearer "+publishKey)
				r.Header.Set("Content-Type", "application/json")
				d := g.send(t, r).problem(t, c.status, c.kind)
				if d.Field != c.field {
					t.Errorf("field %q, want %q", d.Field, c.field)
				}
				if d.Status == 413 && d.Limit == 0 {
					t.Errorf("the limit is missing: %+v", d)
				}
			}
			if g.log.count() != before {
				t.Error("something was appended")
			}
			g.works(t)
		})
	}
}

func TestContentType(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	for _, c := range []struct {
		value string
		ok    bool
	}{
		{"application/json", true},
		{"application/json; charset=utf-8", true},
		{`application/json;charset="UTF-8"`, true},
		{"APPLICATION/JSON", true},
		{"", false},
		{"text/plain", false},
		{"application/x-www-form-urlencoded", false},
		{"application/json; charset=latin-1", false},
		{"application/json; charset", false},
		{"application/jsonp", false},
		{"application/problem+json", false},
	} {
		r := g.post(t, `{"userId":"ann","message":1}`, "Content-Type", c.value)
		if c.ok {
			r.receipt(t)
			continue
		}
		r.problem(t, 415, "unsupported-media-type")
		if r.Header.Get("Accept-Post") != "application/json" {
			t.Errorf("Accept-Post %q", r.Header.Get("Accept-Post"))
		}
		g.works(t)
	}
}

func TestMethodsAndPaths(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	for _, c := range []struct{ method, path, allow string }{
		{"GET", "/v1/messages", "POST"},
		{"PUT", "/v1/messages", "POST"},
		{"OPTIONS", "/v1/messages", "POST"},
		{"BREW", "/v1/messages", "POST"},
		{"DELETE", "/v1/users/ann", "GET, HEAD, OPTIONS"},
		{"POST", "/v1/users/ann/messages/1", "GET, HEAD, OPTIONS"},
		{"GET", "/v1/tokens", "OPTIONS, POST"},
		{"POST", "/v1/connect", "GET"},
		{"HEAD", "/v1/connect", "GET"},
		{"POST", "/tokens", "GET, OPTIONS"},
		{"HEAD", "/tokens", "GET, OPTIONS"},
		{"GET", "/message", "POST"},
		{"POST", "/", "GET, HEAD"},
	} {
		r := g.do(t, c.method, c.path, "", "Authorization", publishKey)
		if r.StatusCode != 405 || r.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %d, Allow %q, want 405 and %q", c.method, c.path, r.StatusCode, r.Header.Get("Allow"), c.allow)
		}
		if c.method != "HEAD" {
			r.problem(t, 405, "method-not-allowed")
		}
	}
	for _, path := range []string{"/nowhere", "/v1", "/v1/", "/v1/messages/", "/v1/users/", "/v1/users/ann/", "/favicon.ico", "/metrics", "/debug/pprof/"} {
		g.do(t, "GET", path, "").problem(t, 404, "not-found")
	}
	r := g.do(t, "GET", "/", "")
	for _, want := range []string{"POST  /v1/messages", "GET   /v1/connect", "README"} {
		if !strings.Contains(string(r.body), want) {
			t.Errorf("the index does not mention %q:\n%s", want, r.body)
		}
	}
	g.works(t)
}

// dial opens a plain connection and writes to it what an HTTP client would not.
func dial(t *testing.T, g *gateway, request string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func read(t *testing.T, from *bufio.Reader) reply {
	t.Helper()
	resp, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatalf("read the answer: %v", err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return reply{resp, b.Bytes()}
}

const postHead = "POST /v1/messages HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer " + publishKey + "\r\nContent-Type: application/json\r\n"

func TestSlowBody(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{BodyTimeout: 50 * time.Millisecond})
	for name, request := range map[string]string{
		"with length": postHead + "Content-Length: 28\r\n\r\n{\"userId\":",
		"chunked":     postHead + "Transfer-Encoding: chunked\r\n\r\na\r\n{\"userId\":\r\n",
		"no byte":     postHead + "Content-Length: 28\r\n\r\n",
	} {
		_, answer := dial(t, g, request)
		r := read(t, answer)
		r.problem(t, 408, "body-timeout")
		if !r.Close {
			t.Errorf("%s: the connection is to be used again", name)
		}
		g.works(t)
	}
}

// The time a body may take must not end the wait for the commit.
func TestSlowCommit(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{BodyTimeout: 20 * time.Millisecond})
	g.log.block = make(chan struct{})
	timer := time.AfterFunc(100*time.Millisecond, func() { close(g.log.block) })
	defer timer.Stop()
	g.post(t, `{"userId":"ann","message":1}`).receipt(t)
}

func TestBodyEndsEarly(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	conn, answer := dial(t, g, postHead+"Content-Length: 100\r\n\r\n{\"userId\":\"ann\",\"message\":1}")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	read(t, answer).problem(t, 400, "incomplete-body")

	_, answer = dial(t, g, postHead+"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
	read(t, answer).problem(t, 400, "incomplete-body")
	if g.log.count() != 0 {
		t.Error("half a body was appended")
	}
	g.works(t)
}

// An announced 10 MB is refused before a byte of it is sent.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	_, answer := dial(t, g, postHead+"Expect: 100-continue\r\nContent-Length: 10485760\r\n\r\n")
	if d := read(t, answer).problem(t, 413, "body-too-large"); d.Limit != 8<<20 {
		t.Errorf("%+v", d)
	}
	g.works(t)
}

// The header's limit is net/http's, and so is its answer.
func TestHeaderTooBig(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	_, answer := dial(t, g, postHead+"X-Big: "+strings.Repeat("x", 40<<10)+"\r\n\r\n")
	if r := read(t, answer); r.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	g.works(t)
}

func TestPipelined(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	one := postHead + "Content-Length: 28\r\n\r\n{\"userId\":\"ann\",\"message\":1}"
	bad := postHead + "Content-Length: 3\r\n\r\n{,}"
	_, answer := dial(t, g, one+bad+one)
	read(t, answer).receipt(t)
	read(t, answer).problem(t, 400, "malformed-json")
	if got := read(t, answer).receipt(t); got.Seq != 2 {
		t.Errorf("%+v", got)
	}
}

// Who sends the rest of a body slowly that was refused at its head keeps no
// connection either.
func TestSlowRestOfBody(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{BodyTimeout: 50 * time.Millisecond})
	for _, request := range []string{
		"POST /v1/messages HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100\r\n\r\n{",
		"POST /nowhere HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100\r\n\r\n{",
		"POST /v1/tokens HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer id-token-of-ann\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
	} {
		_, answer := dial(t, g, request)
		if _, err := io.ReadAll(answer); err != nil {
			t.Errorf("%q: the connection was not closed: %v", request, err)
		}
	}
	g.works(t)
}

// What a long body took of the memory for all long bodies is given back.
func TestManyLongBodies(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	body := "[x" + strings.Repeat(" ", 4<<20)
	for range 40 {
		g.post(t, body).problem(t, 400, "malformed-json")
	}
}
