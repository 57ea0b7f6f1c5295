package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"restante/internal/devstack"
)

func call(args []string, env map[string]string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, func(name string) string { return env[name] }, &out, &errs)
	return code, out.String(), errs.String()
}

func TestConfigurationMistakesAreExplained(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		env  map[string]string
		says string
	}{
		{nil, nil, "RESTANTE_API_KEY"},
		{[]string{"-nonsense"}, nil, "-nonsense"},
		{[]string{"extra"}, nil, `unexpected argument "extra"`},
		{[]string{"-api-key", "k", "-api-key-file", "f"}, nil, "not both"},
		{[]string{"-api-key-file", "/does/not/exist"}, nil, "no such file"},
		{[]string{"-api-key", "k", "-gateway-url", "gateway:8080"}, nil, "gateway URL"},
		{[]string{"-api-key", "k", "-oidc-issuer", ""}, nil, "issuer"},
		{[]string{"-api-key", "k", "-max-tasks", "0"}, nil, "-max-tasks"},
		{[]string{"-api-key", "k"}, map[string]string{"RESTANTE_GRACE": "soon"}, "RESTANTE_GRACE"},
		{[]string{"-api-key", "k", "-give-up-after", "0s"}, nil, "-give-up-after"},
	} {
		code, _, stderr := call(c.args, c.env)
		if code != 2 || !strings.Contains(stderr, c.says) || !strings.Contains(stderr, "sample -h") {
			t.Errorf("%q: exit code %d, it says\n%s\nwant %q", c.args, code, stderr, c.says)
		}
	}
	code, stdout, _ := call([]string{"-h"}, nil)
	if code != 0 || !strings.Contains(stdout, "curl -X POST") || !strings.Contains(stdout, "-give-up-after") {
		t.Errorf("-h: exit code %d\n%s", code, stdout)
	}
}

func TestEveryFlagHasAnEnvironmentVariable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("  rk_from_file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"RESTANTE_API_KEY_FILE": file, "RESTANTE_LISTEN": "127.0.0.1:1", "RESTANTE_MAX_TASKS": "7",
		"RESTANTE_OIDC_AUDIENCE": "one, two", "RESTANTE_GRACE": "0s", "RESTANTE_LOG_LEVEL": "debug",
	}
	cfg, err := readConfig([]string{"-max-tasks", "8"}, func(name string) string { return env[name] }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.apiKey != "rk_from_file" || cfg.listen != "127.0.0.1:1" || cfg.maxTasks != 8 || cfg.clientID != "one" ||
		cfg.grace >= 0 || cfg.publicURL != cfg.gatewayURL || cfg.logLevel.String() != "DEBUG" {
		t.Errorf("configuration %+v", cfg)
	}
}

// logLines is written by the process and read by the test.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// wait returns the first record with this message.
func (l *logLines) wait(t *testing.T, msg string) map[string]any {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		l.mu.Lock()
		text := l.buf.String()
		l.mu.Unlock()
		for line := range strings.Lines(text) {
			var record map[string]any
			if json.Unmarshal([]byte(line), &record) == nil && record["msg"] == msg {
				return record
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no log line %q in\n%s", msg, text)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// The whole process: started, given a task by a user of a real issuer, stopped
// while another one waits.
func TestProcessLife(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	issuerURL := "http://" + listener.Addr().String()
	issuer, err := devstack.NewIssuer(devstack.IssuerConfig{URL: issuerURL, Dir: t.TempDir(), ClientID: "restante"})
	if err != nil {
		t.Fatal(err)
	}
	issuers := httptest.NewUnstartedServer(issuer.Handler())
	issuers.Listener.Close()
	issuers.Listener = listener
	issuers.Start()
	defer issuers.Close()

	posted := make(chan string, 10)
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct{ UserID, Message string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		posted <- r.Header.Get("Authorization") + " " + in.UserID + " " + in.Message
		w.WriteHeader(202)
		_, _ = w.Write([]byte(`{"seq":1}`))
	}))
	defer gateway.Close()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := &logLines{}
	exit := make(chan int, 1)
	go func() {
		exit <- run(ctx, []string{"-listen", "127.0.0.1:0", "-gateway-url", gateway.URL, "-oidc-issuer", issuerURL, "-grace", "1s"},
			func(name string) string { return map[string]string{"RESTANTE_API_KEY": "rk_key"}[name] }, nil, log)
	}()
	base := "http://" + log.wait(t, "sample application started")["listen"].(string)

	idToken := signIn(t, issuerURL)
	process := func(body string) int {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", base+"/process", strings.NewReader(body))
		req.Header.Set("Authorization", idToken)
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return res.StatusCode
	}
	if code := process(`{"message":"done","wait":0}`); code != 202 {
		t.Fatalf("answer %d", code)
	}
	if got := <-posted; got != "Bearer rk_key ada done" {
		t.Errorf("the gateway got %q", got)
	}
	if code := process(`{"message":"too late","wait":600}`); code != 202 {
		t.Fatalf("answer %d", code)
	}
	cancel()
	if code := <-exit; code != 0 {
		t.Errorf("exit code %d", code)
	}
	if lost := log.wait(t, "task lost"); lost["user_id"] != "ada" || lost["level"] != "ERROR" {
		t.Errorf("log says %v", lost)
	}
}

func signIn(t *testing.T, issuer string) string {
	t.Helper()
	res, err := http.Post(issuer+"/users", "application/json", strings.NewReader(`{"username":"ada","password":"Correct-Horse-1"}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	res, err = http.Post(issuer+"/token", "application/x-www-form-urlencoded",
		strings.NewReader("grant_type=password&client_id=restante&username=ada&password=Correct-Horse-1&scope=openid"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct {
		IDToken string `json:"id_token"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil || answer.IDToken == "" {
		t.Fatalf("no ID token: %d %v", res.StatusCode, err)
	}
	return answer.IDToken
}

func TestAddressInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	code, _, stderr := call([]string{"-api-key", "k", "-listen", taken.Addr().String()}, nil)
	if code != 1 || !strings.Contains(stderr, "address already in use") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}
