package sample

import (
	"encoding/json"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

func pageBench(t *testing.T) *bench {
	return newBench(t, func(c *Config) {
		c.Page = Page{Issuer: "https://issuer.example/pool", ClientID: "page", GatewayURL: "https://gateway.example/", ConnectTo: []string{"https://login.example"}}
	})
}

func (b *bench) get(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	b.app.Handler().ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w
}

func TestPageIsServedUnderAStrictPolicy(t *testing.T) {
	t.Parallel()
	b := pageBench(t)
	res := b.get("/")
	if res.Code != 200 || !strings.HasPrefix(res.Header().Get("Content-Type"), "text/html") {
		t.Fatalf("page: %d %s", res.Code, res.Header().Get("Content-Type"))
	}
	want := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'" +
		" https://gateway.example https://issuer.example https://login.example wss://gateway.example" +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	if got := res.Header().Get("Content-Security-Policy"); got != want {
		t.Errorf("policy\n%s, want\n%s", got, want)
	}
	// The policy forbids what is inline, so there must be none.
	if inline := regexp.MustCompile(`(?i)\sstyle=|\son[a-z]+=|<style|<script(?: type="module")?>`).FindString(res.Body.String()); inline != "" {
		t.Errorf("the page has %q inline", inline)
	}
	again := httptest.NewRequest("GET", "/", nil)
	again.Header.Set("If-None-Match", res.Header().Get("ETag"))
	w := httptest.NewRecorder()
	b.app.Handler().ServeHTTP(w, again)
	if w.Code != 304 {
		t.Errorf("asked again with its ETag: %d", w.Code)
	}
	if res := b.get("/nothing"); res.Code != 404 {
		t.Errorf("/nothing: %d", res.Code)
	}
	if res := b.get("/livez"); res.Code != 200 {
		t.Errorf("/livez: %d", res.Code)
	}
}

// Everything the page refers to exists, and the ids that its scripts and the
// browser tests use are in it.
func TestPageIsComplete(t *testing.T) {
	t.Parallel()
	b := pageBench(t)
	html := b.get("/").Body.String()
	files := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(html, -1) {
		files[m[1]] = true
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(`\sid="([^"]+)"`).FindAllStringSubmatch(html, -1) {
		if ids[m[1]] {
			t.Errorf("id %s is used twice", m[1])
		}
		ids[m[1]] = true
	}
	script := b.get("/app.js").Body.String()
	for _, m := range regexp.MustCompile(`from '\./([^']+)'`).FindAllStringSubmatch(script, -1) {
		files[m[1]] = true
	}
	if len(files) < 6 {
		t.Errorf("only %d files found: is the pattern still right?", len(files))
	}
	for file := range files {
		if res := b.get("/" + file); res.Code != 200 {
			t.Errorf("/%s: %d", file, res.Code)
		}
	}
	for _, m := range regexp.MustCompile(`\$\('([^']+)'\)`).FindAllStringSubmatch(script, -1) {
		if !ids[m[1]] {
			t.Errorf("the script uses #%s, the page has no such id", m[1])
		}
	}
	comment, _, _ := strings.Cut(html, "-->")
	for _, m := range regexp.MustCompile(`#([a-z-]+)`).FindAllStringSubmatch(comment, -1) {
		if !ids[m[1]] {
			t.Errorf("#%s is promised to browser tests, the page has no such id", m[1])
		}
	}
}

func TestPageConfiguration(t *testing.T) {
	t.Parallel()
	var got map[string]string
	if err := json.Unmarshal(pageBench(t).get("/config.json").Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"issuer": "https://issuer.example/pool", "clientId": "page", "scope": "openid profile email", "gatewayUrl": "https://gateway.example",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}
