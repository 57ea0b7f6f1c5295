package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxDocument  = 512 << 10 // bytes of a discovery document or a key set; real ones have a few KB
	maxKeys      = 64
	maxRedirects = 3
	minRSABits   = 2048
)

// newClient returns an HTTP client that is careful with what it is led to.
func newClient(cfg Config) *http.Client {
	transport := cfg.Transport
	if transport == nil {
		transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    cfg.Timeout,
			ResponseHeaderTimeout:  cfg.Timeout,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConns:           2,
			IdleConnTimeout:        time.Minute,
		}
	}
	return &http.Client{
		Transport: transport,
		Timeout:   cfg.Timeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return fmt.Errorf("more than %d redirects", maxRedirects)
			}
			if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
				return errors.New("redirected from https to http")
			}
			return nil
		},
	}
}

// source says where an issuer publishes.
type source struct {
	issuer    string
	discovery string // URL of the discovery document; "" for the usual place
	keys      string // URL of the keys; "" for what the discovery document says
}

// published is what an issuer says of itself.
type published struct {
	keys       []jose.JSONWebKey
	algorithms []string // that sign its ID tokens; nil if it does not say
}

// announces reports whether the issuer may sign with an algorithm.
func (p published) announces(algorithm string) bool {
	return p.algorithms == nil || slices.Contains(p.algorithms, algorithm)
}

// fetch reads the issuer's discovery document and the keys it points to.
func (s source) fetch(ctx context.Context, client *http.Client) (p published, err error) {
	keys := s.keys
	if keys == "" {
		if keys, p.algorithms, err = s.discover(ctx, client); err != nil {
			return published{}, fmt.Errorf("discovery: %w", err)
		}
	}
	if p.keys, err = fetchKeys(ctx, client, keys); err != nil {
		return published{}, fmt.Errorf("keys: %w", err)
	}
	return p, nil
}

// discover reads the discovery document.
func (s source) discover(ctx context.Context, client *http.Client) (keysURL string, algorithms []string, err error) {
	var discovery struct {
		Issuer     string   `json:"issuer"`
		KeysURL    string   `json:"jwks_uri"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}
	from := s.discovery
	if from == "" {
		from = strings.TrimSuffix(s.issuer, "/") + "/.well-known/openid-configuration"
	}
	if err := getJSON(ctx, client, from, &discovery); err != nil {
		return "", nil, err
	}
	if discovery.Issuer != s.issuer {
		return "", nil, fmt.Errorf("the issuer calls itself %.200q, and is configured as %q; they must be the same, to the last slash",
			discovery.Issuer, s.issuer)
	}
	// A document read over http inside the network may point there as well.
	if strings.HasPrefix(s.issuer, "https:") && strings.HasPrefix(from, "https:") && !strings.HasPrefix(discovery.KeysURL, "https:") {
		return "", nil, errors.New("jwks_uri is not an https URL, though the issuer is")
	}
	return discovery.KeysURL, discovery.Algorithms, nil
}

// fetchKeys reads a key set and returns the keys that can check a signature.
func fetchKeys(ctx context.Context, client *http.Client, url string) ([]jose.JSONWebKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := getJSON(ctx, client, url, &set); err != nil {
		return nil, err
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the issuer has %d keys; at most %d are looked at", len(set.Keys), maxKeys)
	}
	var keys []jose.JSONWebKey
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		// RFC 7517, section 5: keys of unknown kinds are passed over.
		if err := json.Unmarshal(raw, &key); err == nil && verifies(key) {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("none of the issuer's %d keys can check a signature", len(set.Keys))
	}
	return keys, nil
}

// verifies reports whether a key is public, strong enough, and for signatures.
func verifies(key jose.JSONWebKey) bool {
	if !key.Valid() || key.Use != "" && key.Use != "sig" {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSABits
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return true
	}
	return false // a symmetric or private key that should not have been published
}

// getJSON reads a JSON document of at most maxDocument bytes. What the other
// side sent never gets into the error.
func getJSON(ctx context.Context, client *http.Client, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err // names the method and the URL
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %d %s", url, resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return fmt.Errorf("GET %s: %w", url, err)
	}
	if len(body) > maxDocument {
		return fmt.Errorf("GET %s: the answer is longer than %d bytes", url, maxDocument)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("GET %s: the answer is not the JSON that was expected", url)
	}
	return nil
}
