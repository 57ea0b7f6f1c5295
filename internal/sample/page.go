package sample

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

//go:embed page
var pageFiles embed.FS

// contentType is that of one of the page's files, "" for an unknown kind. Those
// of the mime package depend on what the machine has installed.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return ""
}

// Page is what the demonstration page is told through /config.json. With an
// empty Issuer no page is served.
type Page struct {
	Issuer     string // of the ID tokens; the page discovers its endpoints
	ClientID   string // the page's own, a public client: code flow with PKCE, no secret
	Scope      string // "" is "openid profile email"
	GatewayURL string // as browsers reach it
	// ConnectTo are more origins the page may talk to: needed only when the
	// issuer's token endpoint is on another origin than the issuer itself.
	ConnectTo []string
}

func (p Page) check() error {
	if p.Issuer == "" {
		return nil
	}
	var problems []error
	if p.ClientID == "" {
		problems = append(problems, errors.New("the page needs a client id"))
	}
	for _, u := range append([]string{p.Issuer, p.GatewayURL}, p.ConnectTo...) {
		if parsed, err := httpURL(u); err != nil {
			problems = append(problems, fmt.Errorf("page: %w", err))
		} else if strings.ContainsAny(parsed.Host, " ;,'\"") {
			// It goes into the Content-Security-Policy header.
			problems = append(problems, fmt.Errorf("page: %q is not a host", parsed.Host))
		}
	}
	return errors.Join(problems...)
}

// policy is the page's Content-Security-Policy: its own files, and requests to
// nobody but this application, the issuer and the gateway.
func (p Page) policy() string {
	sources := []string{"'self'"}
	for _, s := range append([]string{p.Issuer, p.GatewayURL}, p.ConnectTo...) {
		u, err := url.Parse(s)
		if err != nil {
			continue // check has refused it
		}
		sources = append(sources, u.Scheme+"://"+u.Host)
	}
	if u, err := url.Parse(p.GatewayURL); err == nil {
		sources = append(sources, strings.Replace(u.Scheme, "http", "ws", 1)+"://"+u.Host)
	}
	slices.Sort(sources)
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " +
		strings.Join(slices.Compact(sources), " ") +
		"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// servePage serves the page's files and its configuration.
func servePage(p Page) (http.Handler, error) {
	if p.Issuer == "" {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			newProblem(http.StatusNotFound, "There is nothing here. Start a task with POST /process.").write(w)
		}), nil
	}
	if p.Scope == "" {
		p.Scope = "openid profile email"
	}
	policy := p.policy()
	mux := http.NewServeMux()
	files, err := pageFiles.ReadDir("page")
	if err != nil {
		return nil, fmt.Errorf("embedded page: %w", err)
	}
	for _, file := range files {
		content, err := pageFiles.ReadFile("page/" + file.Name())
		if err != nil {
			return nil, fmt.Errorf("embedded page: %w", err)
		}
		kind := contentType(file.Name())
		if kind == "" {
			return nil, fmt.Errorf("embedded page: no content type for %s", file.Name())
		}
		at := "GET /" + file.Name()
		if file.Name() == "index.html" {
			at = "GET /{$}"
		}
		mux.Handle(at, serveFile(content, kind, policy))
	}
	mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, "application/json", map[string]string{
			"issuer": p.Issuer, "clientId": p.ClientID, "scope": p.Scope,
			"gatewayUrl": strings.TrimRight(p.GatewayURL, "/"),
		})
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		newProblem(http.StatusNotFound, "There is nothing here. The page is at /, tasks start with POST /process.").write(w)
	})
	return mux, nil
}

// serveFile serves one embedded file. It never changes while the process
// lives, but the next version of the process may have another: browsers ask
// each time, and the ETag makes the answer short.
func serveFile(content []byte, contentType, policy string) http.Handler {
	sum := sha256.Sum256(content)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", contentType)
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer") // the page's URL carries the authorization code once
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", etag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	})
}
