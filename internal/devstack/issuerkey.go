package devstack

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-jose/go-jose/v4"
)

// signingAlgorithm is the one every OpenID Connect verifier takes by default.
const signingAlgorithm = jose.RS256

// signingKey is the issuer's key pair. It is kept in a file, so that tokens and
// verifiers' caches survive a restart.
type signingKey struct {
	id          string
	private     *rsa.PrivateKey
	idToken     jose.Signer
	accessToken jose.Signer // the same key; another type, so that neither token passes for the other
}

const accessTokenType = "at+jwt" // RFC 9068

func loadSigningKey(dir string) (*signingKey, error) {
	path := filepath.Join(dir, "issuer-key.pem")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = createSigningKey(path)
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM block: remove it to get a new key", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	private, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds no RSA key: remove it to get a new one", path)
	}
	thumbprint, err := (&jose.JSONWebKey{Key: private.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, err
	}
	key := &signingKey{id: base64.RawURLEncoding.EncodeToString(thumbprint), private: private}
	if key.idToken, err = key.signer("JWT"); err != nil {
		return nil, err
	}
	if key.accessToken, err = key.signer(accessTokenType); err != nil {
		return nil, err
	}
	return key, nil
}

func createSigningKey(path string) (text []byte, err error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, err
	}
	text = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return text, replaceFile(path, text)
}

func (k *signingKey) signer(tokenType jose.ContentType) (jose.Signer, error) {
	key := jose.SigningKey{Algorithm: signingAlgorithm, Key: jose.JSONWebKey{Key: k.private, KeyID: k.id}}
	return jose.NewSigner(key, (&jose.SignerOptions{}).WithType(tokenType))
}

func (k *signingKey) public() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: k.private.Public(), KeyID: k.id, Algorithm: string(signingAlgorithm), Use: "sig",
	}}}
}

// replaceFile writes a file that is either the old or the new one at any moment,
// whatever happens, and readable by us alone.
func replaceFile(path string, content []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(file.Name())
		}
	}()
	// CreateTemp made it with mode 0600.
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
