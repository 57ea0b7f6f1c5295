package e2e

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"restante/internal/devstack"
)

// issuer is the development issuer, and its signing key: hashing a password for
// every user of a test would take longer than the test.
type issuer struct {
	url    string
	signer jose.Signer
}

func startIssuer(t testing.TB) *issuer {
	t.Helper()
	dir := t.TempDir()
	server := httptest.NewUnstartedServer(nil)
	t.Cleanup(server.Close)
	is := &issuer{url: "http://" + server.Listener.Addr().String()}
	development, err := devstack.NewIssuer(devstack.IssuerConfig{URL: is.url, Dir: dir, ClientID: "restante"})
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = development.Handler()
	server.Start()

	answer, err := http.Get(is.url + "/jwks")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var public jose.JSONWebKeySet
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<16)).Decode(&public); err != nil {
		t.Fatal(err)
	}
	is.signer = newSigner(t, readKey(t, filepath.Join(dir, "issuer-key.pem")), public.Keys[0].KeyID)
	return is
}

func readKey(t testing.TB, path string) *rsa.PrivateKey {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.(*rsa.PrivateKey)
}

func newSigner(t testing.TB, key *rsa.PrivateKey, kid string) jose.Signer {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// claims are those of a good ID token.
func (is *issuer) claims(user string) map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": is.url, "aud": "restante", "sub": user, "preferred_username": user,
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
}

func sign(t testing.TB, signer jose.Signer, claims map[string]any) string {
	t.Helper()
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}
