package devstack

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	// tokenLifetime is that of ID and access tokens.
	tokenLifetime = time.Hour

	// maxForm bounds a request's body: the longest thing in one is a state.
	maxForm = 64 << 10
)

//go:embed issuer.html issuer.css
var issuerFiles embed.FS

// IssuerConfig says who the issuer is.
type IssuerConfig struct {
	URL      string // as in the tokens' iss, http://127.0.0.1:8081; no path
	Dir      string // holds the signing key and the users; created if missing
	ClientID string // the one client, and the tokens' audience

	// AllowedOrigins are the web origins whose pages may call the token
	// endpoint and read the metadata.
	AllowedOrigins []string

	Logger *slog.Logger // nil for none
}

// Issuer is the development OpenID Connect issuer. It starts nothing: serve
// Handler, on a loopback address.
type Issuer struct {
	config IssuerConfig
	key    *signingKey
	users  *userFile
	codes  *codes
	page   *template.Template
}

// NewIssuer loads the signing key and the users of config.Dir, creating both at
// the first time.
func NewIssuer(config IssuerConfig) (*Issuer, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	u, err := url.Parse(config.URL)
	if err != nil {
		return nil, fmt.Errorf("issuer URL: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || config.URL != u.Scheme+"://"+u.Host {
		return nil, fmt.Errorf("issuer URL %q: want scheme, host and port only, like http://127.0.0.1:8081", config.URL)
	}
	if config.ClientID == "" {
		return nil, errors.New("issuer: ClientID is empty")
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	key, err := loadSigningKey(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("issuer's signing key: %w", err)
	}
	users, err := loadUsers(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("issuer's users: %w", err)
	}
	page, err := template.ParseFS(issuerFiles, "issuer.html")
	if err != nil {
		return nil, fmt.Errorf("issuer's page: %w", err)
	}
	return &Issuer{config: config, key: key, users: users, codes: newCodes(), page: page}, nil
}

// Handler serves the issuer.
func (is *Issuer) Handler() http.Handler {
	mux := http.NewServeMux()
	// What clients and verifiers call, from pages of other origins too.
	mux.Handle("/.well-known/openid-configuration", is.crossOrigin("GET", is.discovery))
	mux.Handle("/jwks", is.crossOrigin("GET", is.jwks))
	mux.Handle("/token", is.crossOrigin("POST", is.token))
	mux.Handle("/userinfo", is.crossOrigin("GET", is.userInfo))

	// What the user's browser visits. A foreign page can link here, but not
	// submit the form.
	mux.HandleFunc("GET /authorize", is.authorize)
	mux.HandleFunc("POST /authorize", is.authorize)
	mux.Handle("POST /login", http.NewCrossOriginProtection().Handler(http.HandlerFunc(is.login)))
	mux.HandleFunc("GET /issuer.css", is.stylesheet)

	// What `msg create-user` calls. JSON only: no foreign page can send that
	// without being asked first, and nobody says yes.
	mux.HandleFunc("POST /users", is.createUser)

	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "Restante's development OpenID Connect issuer.\nMetadata: %s/.well-known/openid-configuration\nUsers sign in from the application's page.\n", is.config.URL)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		mux.ServeHTTP(w, r)
	})
}

// crossOrigin serves one method of an endpoint that pages of the allowed origins
// may call with fetch, and answers their preflights.
func (is *Issuer) crossOrigin(method string, next http.HandlerFunc) http.Handler {
	allow := method + ", OPTIONS"
	if method == http.MethodGet {
		allow = "GET, HEAD, OPTIONS"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Add("Vary", "Origin")
		if origin := r.Header.Get("Origin"); slices.Contains(is.config.AllowedOrigins, origin) {
			header.Set("Access-Control-Allow-Origin", origin)
			if r.Method == http.MethodOptions {
				header.Set("Access-Control-Allow-Methods", method)
				header.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
				header.Set("Access-Control-Max-Age", "600")
			}
		}
		switch {
		case r.Method == http.MethodOptions:
			header.Set("Allow", allow)
			w.WriteHeader(http.StatusNoContent)
		case r.Method == method, r.Method == http.MethodHead && method == http.MethodGet:
			next(w, r)
		default:
			header.Set("Allow", allow)
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		}
	})
}

func (is *Issuer) discovery(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                         is.config.URL,
		"authorization_endpoint":                         is.config.URL + "/authorize",
		"token_endpoint":                                 is.config.URL + "/token",
		"userinfo_endpoint":                              is.config.URL + "/userinfo",
		"jwks_uri":                                       is.config.URL + "/jwks",
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "password"},
		"subject_types_supported":                        []string{"public"},
		"id_token_signing_alg_values_supported":          []string{string(signingAlgorithm)},
		"scopes_supported":                               scopes,
		"token_endpoint_auth_methods_supported":          []string{"none"},
		"code_challenge_methods_supported":               []string{"S256"},
		"claims_supported":                               []string{"iss", "sub", "aud", "iat", "exp", "auth_time", "nonce", "at_hash", "preferred_username"},
		"request_parameter_supported":                    false,
		"request_uri_parameter_supported":                false,
		"claims_parameter_supported":                     false,
		"authorization_response_iss_parameter_supported": true,
	})
}

func (is *Issuer) jwks(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, is.key.public())
}

func (is *Issuer) stylesheet(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, issuerFiles, "issuer.css")
}

// loopbackRedirect reports whether uri is a place on this machine that a code
// may be sent to, and its origin.
func loopbackRedirect(uri string) (origin string, ok bool) {
	u, err := url.Parse(uri)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.Fragment != "" || strings.Contains(uri, "#") {
		return "", false
	}
	ip := net.ParseIP(u.Hostname())
	if u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return "", false
	}
	return u.Scheme + "://" + u.Host, true
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // fails only when the client has gone
}
