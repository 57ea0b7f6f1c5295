package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"restante/internal/testdb"
	"restante/internal/tokens"
)

// TestBadConnectTokens presents single-use tokens that are no good, each over
// both paths, and then a good one.
func TestBadConnectTokens(t *testing.T) {
	parallel(t)
	db := testdb.New(t)
	w := newWorld(t, db.URL)
	s := w.server("-token-ttl", "1s")
	idToken := w.idToken("ann")
	fresh := func() string {
		t.Helper()
		token, err := s.token(idToken)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	// Made here, with a row in the database as a good one has.
	made := func(keys *tokens.Keyring, issuer string) string {
		t.Helper()
		token, _, err := tokens.New(db.Pool, keys, tokens.Config{Issuer: issuer, TTL: time.Minute}, nil).Issue(t.Context(), "ann", "")
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	const every = 250 * time.Millisecond
	var aging []string
	for range patience / every {
		aging = append(aging, fresh())
	}
	ours, err := tokens.OpenKeyring(w.keyring, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	foreignKey, err := tokens.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := tokens.NewKeyring(foreignKey)
	if err != nil {
		t.Fatal(err)
	}
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","enc":"none"}`)) + "." +
		base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"restante","aud":"restante","sub":"ann","exp":9999999999,"jti":"x"}`)) + "."
	good := fresh()
	bad := map[string]string{
		"tampered":       tampered(good),
		"cut":            good[:len(good)-1],
		"line break":     good + "\n",
		"foreign key":    made(foreign, ""),
		"wrong issuer":   made(ours, "somebody-else"),
		"alg none":       none,
		"none, padded":   none + "..",
		"an ID token":    idToken,
		"an API key":     w.key,
		"oversized":      strings.Repeat("A", 4000),
		"longer still":   good + strings.Repeat("A", 9000),
		"NUL":            "a\x00b",
		"quotes and SQL": `'"; DROP TABLE tokens; --`,
	}
	for name, token := range bad {
		w.secret(token)
		for _, path := range []string{"/v1/connect", "/ws"} {
			t.Run(name+path, func(t *testing.T) {
				p := upgrade(w, s, path, url.QueryEscape(token)).problem(t, http.StatusUnauthorized)
				if !strings.Contains(p.Detail, "not a token of this gateway") {
					t.Errorf("the client is told: %s", p.Detail)
				}
			})
		}
	}
	if p := upgrade(w, s, "/v1/connect", "").problem(t, http.StatusUnauthorized); !strings.Contains(p.Detail, "missing") {
		t.Errorf("without a token: %s", p.Detail)
	}
	if a := upgrade(w, s, "/v1/connect", fresh()); a.status != http.StatusSwitchingProtocols {
		t.Errorf("a good token after all the bad ones: %d %s", a.status, a.body)
	}
	// A token grows old: one of those that were issued together is tried now and
	// then. The sixth second is the last, for clocks may differ by five.
	poll(t, every, "a token expires", func() bool {
		if len(aging) == 0 {
			t.Fatal("no token has expired")
		}
		next := aging[0]
		aging = aging[1:]
		a := upgrade(w, s, "/ws", next)
		if a.status == http.StatusSwitchingProtocols {
			return false
		}
		return strings.Contains(a.problem(t, http.StatusUnauthorized).Detail, "expired")
	})
}

// tampered changes one character in the middle of the ciphertext.
func tampered(token string) string {
	i := strings.LastIndexByte(token, '.') - 10
	other := byte('A')
	if token[i] == other {
		other = 'B'
	}
	return token[:i] + string(other) + token[i+1:]
}

// TestBadIDTokens asks for a token with ID tokens that are no good, on both
// paths, in both spellings of the header.
func TestBadIDTokens(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s := w.server()
	stranger, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	strangers := newSigner(t, stranger, "stranger")
	edited := func(name string, value any) string {
		claims := w.issuer.claims("ann")
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
		return sign(t, w.issuer.signer, claims)
	}
	good := w.idToken("ann")
	parts := strings.Split(good, ".")
	bad := map[string]string{
		"expired":       edited("exp", time.Now().Add(-time.Hour).Unix()),
		"no exp":        edited("exp", nil),
		"wrong aud":     edited("aud", "another-application"),
		"no aud":        edited("aud", nil),
		"wrong iss":     edited("iss", "https://id.example.com"),
		"no sub":        edited("sub", nil),
		"a bad user id": edited("sub", "a\x00b"),
		"foreign key":   sign(t, strangers, w.issuer.claims("ann")),
		"tampered":      tampered(good),
		"other claims":  parts[0] + "." + strings.Split(edited("sub", "bob"), ".")[1] + "." + parts[2],
		"alg none":      base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".",
		"oversized":     good + strings.Repeat("A", 17_000),
		"not a token":   "secret-of-somebody-else",
	}
	for name, token := range bad {
		w.secret(token)
		t.Run(name, func(t *testing.T) {
			for _, try := range []struct{ method, path, credential string }{
				{"POST", "/v1/tokens", "Bearer " + token}, {"GET", "/tokens", token}, {"GET", "/tokens", "Bearer " + token},
			} {
				a, err := w.send(t.Context(), try.method, s.url+try.path, try.credential, "")
				if err != nil {
					t.Fatal(err)
				}
				a.problem(t, http.StatusUnauthorized)
				if a.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s: no WWW-Authenticate", try.path)
				}
			}
		})
	}
	if _, err := s.token(good); err != nil {
		t.Errorf("a good token after all the bad ones: %v", err)
	}
}
