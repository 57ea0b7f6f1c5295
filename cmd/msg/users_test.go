package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestCreateUser(t *testing.T) {
	t.Parallel()
	var got map[string]string
	status, body := 201, `{}`
	b := newBench(t, map[string]http.HandlerFunc{"POST /users": func(w http.ResponseWriter, r *http.Request) {
		got = nil
		_ = json.NewDecoder(r.Body).Decode(&got)
		answer(w, status, body)
	}})
	b.want(0, "", "User testUser is ready. Sign in with: eval \"$(msg auth -p", "create-user", "-p", "Correct-Horse-1")
	if got["username"] != "testUser" || got["password"] != "Correct-Horse-1" {
		t.Errorf("the issuer got %v", got)
	}
	b.stdin = "from-stdin\nnot this\n"
	b.want(0, "", "msg auth -u 'ada'", "create-user", "--username", "ada", "--password", "-")
	if got["password"] != "from-stdin" {
		t.Errorf("the issuer got %v", got)
	}
	b.want(2, "", "give a password", "create-user")
	b.want(2, "", "unexpected argument", "create-user", "-p", "x", "ada")

	status, body = 409, `{"title":"Conflict","detail":"The user exists."}`
	b.want(1, "", "the issuer says: The user exists. (409)\nTo sign in as that user:", "create-user", "-p", "x")
	status, body = 422, `{"title":"Weak","detail":"A password has at least 8 characters."}`
	b.want(1, "", "at least 8 characters", "create-user", "-p", "x")

	other := newBench(t, nil)
	other.want(1, "", "is not the development issuer\nCreate the user where", "create-user", "-p", "x")
}

// issuer plays the part of an OIDC issuer with this answer to a token request.
func issuer(t *testing.T, status int, body func() string, form *map[string][]string) *bench {
	var b *bench
	b = newBench(t, map[string]http.HandlerFunc{
		"GET /.well-known/openid-configuration": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"issuer":%q,"token_endpoint":%q}`, b.server.URL, b.server.URL+"/oauth/token")
		},
		"POST /oauth/token": func(w http.ResponseWriter, r *http.Request) {
			_ = r.ParseForm()
			*form = r.PostForm
			answer(w, status, body())
		},
	})
	return b
}

func TestAuthCanBeEvaluatedByAShell(t *testing.T) {
	t.Parallel()
	var form map[string][]string
	idToken := token("ada-id", "ada", time.Now().Add(time.Hour))
	b := issuer(t, 200, func() string { return `{"id_token":"` + idToken + `","token_type":"Bearer"}` }, &form)
	b.want(0, "export ID_TOKEN='"+idToken+"'\n", "Signed in as ada (user id ada-id), until", "auth", "-u", "ada", "-p", "secret")
	for name, want := range map[string]string{
		"grant_type": "password", "username": "ada", "password": "secret", "client_id": "restante", "scope": "openid profile email",
	} {
		if got := strings.Join(form[name], ","); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	out, err := exec.Command("sh", "-c", `eval "$1"; printf %s "$ID_TOKEN"`, "sh", b.stdout.String()).Output()
	if err != nil || string(out) != idToken {
		t.Errorf("a shell makes of it: %q, %v", out, err)
	}
	if strings.Contains(b.stderr.String(), idToken) {
		t.Error("the token is on standard error too")
	}
}

func TestShellQuote(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "plain", "it's", "a b", "$(touch x)", "`id`", `\`, "'", "new\nline", "-n", `"!"`} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellQuote(text)+"x").Output()
		if err != nil || string(out) != text+"x" {
			t.Errorf("%q becomes %q, %v", text, out, err)
		}
	}
}

func TestAuthExplainsRefusals(t *testing.T) {
	t.Parallel()
	var form map[string][]string
	for _, c := range []struct {
		status     int
		body, says string
	}{
		{400, `{"error":"invalid_grant","error_description":"nope"}`, "wrong user name or password\nTo create the user: msg create-user"},
		{400, `{"error":"unsupported_grant_type"}`, "does not sign users in with a password"},
		{500, `oops`, "answered 500 Internal Server Error"},
		{200, `{"id_token":"not a JWT"}`, "did not send an ID token"},
		{200, `<html>`, "not the expected JSON"},
	} {
		b := issuer(t, c.status, func() string { return c.body }, &form)
		b.want(1, "", c.says, "auth", "-p", "x")
	}
	b := issuer(t, 200, func() string { return "" }, &form)
	b.env["RESTANTE_ISSUER"] = strings.Replace(b.server.URL, "127.0.0.1", "localhost", 1)
	b.want(1, "", "calls itself", "auth", "-p", "x")
	b.env["RESTANTE_ISSUER"] = "127.0.0.1:8081"
	b.want(2, "", "RESTANTE_ISSUER must be an http or https URL", "auth", "-p", "x")
}

func TestSendMessage(t *testing.T) {
	t.Parallel()
	var body, authorization string
	status, says := 202, `{"taskId":"task-1","userId":"ada-id","wait":20,"due":"2030-01-02T03:04:05.000Z"}`
	b := newBench(t, map[string]http.HandlerFunc{"POST /process": func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		body, authorization = string(raw), r.Header.Get("Authorization")
		answer(w, status, says)
	}})
	b.want(0, "task-1\n", "The message for ada is due at", "send-message", "Serverless is <cool>!", "-w", "20")
	if want := `{"message":"Serverless is <cool>!","wait":20}` + "\n"; body != want {
		t.Errorf("sent %s, want %s", body, want)
	}
	if authorization != b.env["ID_TOKEN"] {
		t.Errorf("the ID token was not sent as the seed's client sends it: %q", authorization)
	}
	b.want(0, "", "", "send-message", "three", "more", "words")
	if !strings.Contains(body, `"three more words"`) || !strings.Contains(body, `"wait":10`) {
		t.Errorf("sent %s", body)
	}
	b.want(2, "", "give the text", "send-message", "-w", "3")
	b.want(2, "", "between 0 and 900", "send-message", "x", "-w", "901")

	status, says = 401, `{"title":"Unauthorized","detail":"The ID token is not valid."}`
	b.want(1, "", "The ID token is not valid. (401)\nSign in again with: eval", "send-message", "x")
	status, says = 503, `{"title":"Service Unavailable","detail":"Too many tasks are in progress."}`
	b.want(1, "", "Too many tasks", "send-message", "x")
}

func TestSignInIsCheckedBeforeAnythingIsSent(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for _, command := range [][]string{{"send-message", "x"}, {"connect-websocket"}} {
		b.env["ID_TOKEN"] = ""
		b.want(1, "", "ID_TOKEN is not set\nSign in with: eval", command...)
		b.env["ID_TOKEN"] = "garbage"
		b.want(1, "", "is not an ID token", command...)
		b.env["ID_TOKEN"] = token("ada-id", "ada", time.Now().Add(-time.Minute))
		b.want(1, "", "your ID token expired at", command...)
	}
}

func TestNothingAnswers(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	b.server.Close()
	for _, command := range [][]string{
		{"create-user", "-p", "x"}, {"auth", "-p", "x"}, {"send-message", "x"}, {"connect-websocket"}, {"publish", "u", "x"}, {"status", "u"}, {"message", "u", "1"},
	} {
		b.want(1, "", "nothing answers at "+b.server.URL, command...)
		if !strings.Contains(b.stderr.String(), "make run") {
			t.Errorf("msg %s does not say how to start what is missing", command[0])
		}
	}
}

// Not every issuer has a user name in its ID tokens; Dex has no more than a name
// or an address, for some of its connectors.
func TestNameOfAnIDToken(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ claims, want string }{
		{`{"sub":"CiQw","preferred_username":"ada","name":"Ada L.","email":"ada@example.com"}`, "ada"},
		{`{"sub":"CiQw","cognito:username":"ada","email":"ada@example.com"}`, "ada"},
		{`{"sub":"CiQw","preferred_username":"","name":"Ada L.","email":"ada@example.com"}`, "Ada L."},
		{`{"sub":"CiQw","email":"ada@example.com"}`, "ada@example.com"},
		{`{"sub":"CiQw"}`, "CiQw"},
		{`{}`, "somebody"},
	} {
		c, err := readClaims("e30." + base64.RawURLEncoding.EncodeToString([]byte(test.claims)) + ".c2ln")
		if err != nil || c.name() != test.want {
			t.Errorf("%s: %q, %v; want %q", test.claims, c.name(), err, test.want)
		}
	}
}
