package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHealthSaysItByTheExitCode(t *testing.T) {
	t.Parallel()
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, "the answer")
	}))
	defer server.Close()
	none := func(string) string { return "" }
	for _, test := range []struct {
		status int
		url    string
		want   int
	}{
		{200, server.URL + "/readyz", exitOK},
		{503, server.URL + "/readyz", exitError},
		{200, "http://127.0.0.1:1/readyz", exitError},
		{200, "http://bad url", exitUsage},
	} {
		status = test.status
		var out, errs strings.Builder
		if got := run(t.Context(), []string{"-health", test.url}, none, &out, &errs); got != test.want {
			t.Errorf("%d at %s: exit code %d, want %d; %s", test.status, test.url, got, test.want, errs.String())
		}
		if reached := strings.HasPrefix(test.url, server.URL); reached != (out.String() == "the answer") {
			t.Errorf("%s printed %q", test.url, out.String())
		}
	}
}

func TestDatabaseURLFromAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "database-url")
	if err := os.WriteFile(file, []byte("postgres://a:b@c/d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"DATABASE_URL_FILE": file, "RESTANTE_OIDC_ISSUER": "https://id.example", "RESTANTE_TOKEN_KEYS": "{}"}
	getenv := func(name string) string { return env[name] }
	if c, err := parseConfig(nil, getenv, os.Stderr); err != nil || c.databaseURL != "postgres://a:b@c/d" {
		t.Errorf("%q, %v", c.databaseURL, err)
	}
	if _, err := parseConfig([]string{"-database-url", "postgres:///x"}, getenv, os.Stderr); err == nil || !strings.Contains(err.Error(), "choose one") {
		t.Errorf("both: %v", err)
	}
	if _, err := parseConfig([]string{"-database-url-file", file + "x"}, getenv, os.Stderr); err == nil || !strings.Contains(err.Error(), "read the database URL") {
		t.Errorf("no such file: %v", err)
	}
}
