// Package origins decides which web pages may use the gateway. It is the one
// matcher for CORS answers and for WebSocket handshakes, so that a page whose
// preflight passes can connect as well.
//
// An origin is scheme, host and port (RFC 6454). A configured one is compared
// without regard to case, default ports and a final slash. "*" stands for every
// origin; "https://*.preview.example.com" for one label in that place. A page of the
// gateway's own host is always allowed: native clients send the gateway's URL as
// their origin, and TLS may end in front of it, so the scheme may differ.
package origins

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Set is a list of allowed origins. The zero Set allows the gateway's own host only.
type Set struct {
	any   bool
	exact map[string]bool
	// wildcards are the parts around the label: "https://" and ".example.com:8443".
	wildcards []wildcard
}

type wildcard struct{ before, after string }

// Parse reads a configuration. An error names the entry that no browser would ever
// send, because it would silently allow nothing.
func Parse(list []string) (Set, error) {
	s := Set{exact: map[string]bool{}}
	for _, text := range list {
		if text == "*" {
			s.any = true
			continue
		}
		origin, err := normal(strings.TrimSuffix(text, "/"))
		if err != nil {
			return Set{}, fmt.Errorf("origin %q: %w", text, err)
		}
		scheme, rest, starred := strings.Cut(origin, "*")
		switch {
		case !starred:
			s.exact[origin] = true
		case !strings.HasSuffix(scheme, "://") || !strings.HasPrefix(rest, ".") || strings.Contains(rest, "*") || strings.Count(rest, ".") < 2:
			return Set{}, fmt.Errorf("origin %q: a * stands for the first label of a host below a domain, as in https://*.preview.example.com", text)
		default:
			s.wildcards = append(s.wildcards, wildcard{scheme, rest})
		}
	}
	return s, nil
}

// Empty reports whether no foreign origin is allowed.
func (s *Set) Empty() bool { return !s.any && len(s.exact) == 0 && len(s.wildcards) == 0 }

// Any reports whether every origin is allowed.
func (s *Set) Any() bool { return s.any }

// Allows reports whether a page of an origin, as the browser sends it, may use the
// gateway at a host, the request's Host.
func (s *Set) Allows(origin, host string) bool {
	if s.any {
		return true
	}
	origin, err := normal(origin)
	if err != nil || strings.Contains(origin, "*") {
		return false
	}
	if s.exact[origin] {
		return true
	}
	scheme, at, _ := strings.Cut(origin, "://")
	if host != "" && at == withoutDefaultPort(scheme, strings.ToLower(host)) {
		return true
	}
	for _, w := range s.wildcards {
		label, ok := strings.CutPrefix(origin, w.before)
		if label, ok2 := strings.CutSuffix(label, w.after); ok && ok2 && label != "" && !strings.ContainsAny(label, ".:/") {
			return true
		}
	}
	return false
}

var errForm = errors.New("want scheme://host[:port], as in https://app.example.com, or * for every origin")

// normal returns an origin in the one form that is compared.
func normal(text string) (string, error) {
	// A browser escapes nothing in an origin, and writes other alphabets as xn--….
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`\%"<>^{}|`+"`", c) >= 0 {
			return "", errForm
		}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery ||
		u.Fragment != "" || strings.HasSuffix(text, "#") || strings.HasSuffix(u.Host, ":") || strings.Trim(u.Hostname(), ".*") == "" {
		return "", errForm
	}
	return u.Scheme + "://" + withoutDefaultPort(u.Scheme, strings.ToLower(u.Host)), nil
}

// withoutDefaultPort removes the port that a scheme has anyway.
func withoutDefaultPort(scheme, host string) string {
	name, port, err := net.SplitHostPort(host)
	if err != nil || !(scheme == "http" && port == "80" || scheme == "https" && port == "443") {
		return host
	}
	if strings.Contains(name, ":") {
		return "[" + name + "]"
	}
	return name
}
