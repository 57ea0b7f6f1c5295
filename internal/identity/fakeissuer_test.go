package identity

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// testIssuer is an OIDC issuer as far as a verifier can see it.
type testIssuer struct {
	*httptest.Server
	discoveries, fetches atomic.Int64
	down                 atomic.Bool

	mu         sync.Mutex
	keys       []any    // what the key set holds
	algorithms []string // what it announces; nil: nothing
	name       string   // what it calls itself; "" for its URL
}

func newIssuer(t testing.TB, keys ...any) *testIssuer {
	t.Helper()
	i := &testIssuer{keys: keys}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.discoveries.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		json.NewEncoder(w).Encode(map[string]any{
			"issuer": cmp.Or(i.name, i.URL), "jwks_uri": i.URL + "/keys", "id_token_signing_alg_values_supported": i.algorithms,
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.fetches.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		json.NewEncoder(w).Encode(map[string]any{"keys": i.keys})
	})
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if i.down.Load() {
			http.Error(w, "down for repair", http.StatusBadGateway)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *testIssuer) callItself(name string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.name = name
}

func (i *testIssuer) publish(keys ...any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

// key is a signing key with a name.
type key struct {
	id      string
	alg     jose.SignatureAlgorithm
	private crypto.Signer
}

func (k key) public() jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: string(k.alg), Use: "sig"}
}

func rsaKey(t testing.TB, id string) key {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key{id, jose.RS256, private}
}

func ecKey(t testing.TB, id string) key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key{id, jose.ES256, private}
}

func edKey(t testing.TB, id string) key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key{id, jose.EdDSA, private}
}

func (k key) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	return k.signAs(t, "JWT", claims)
}

func (k key) signAs(t testing.TB, typ string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: jose.JSONWebKey{Key: k.private, KeyID: k.id}},
		(&jose.SignerOptions{}).WithType(jose.ContentType(typ)))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// idToken returns good claims of an ID token, changed; nil removes a claim.
func (i *testIssuer) idToken(changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": i.URL, "aud": "restante", "sub": "user-1", "preferred_username": "ann",
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func verifier(t testing.TB, i *testIssuer, change func(*Config)) *Verifier {
	t.Helper()
	cfg := Config{Issuer: i.URL, Audiences: []string{"restante", "page"}, PublisherAudiences: []string{"gateway"}}
	if change != nil {
		change(&cfg)
	}
	return New(cfg, nil)
}
