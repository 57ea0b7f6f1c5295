package devstack

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// signingAlgorithm is the one every OpenID Connect verifier takes by default.
const signingAlgorithm = jose.RS256

// signingKey is the issuer's key pair. It is kept in a file, so that tokens and
// verifiers' caches survive a restart.
type signingKey struct {
	id         string
	private    *rsa.PrivateKey
	idToken    jose.Signer
	accessType jose.Signer // the same key; another type, so that neither token passes for the other
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
	if key.accessType, err = key.signer(accessTokenType); err != nil {
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

// grant is what a user has allowed the client: the tokens' contents.
type grant struct {
	user          string
	scope         string
	nonce         string
	authenticated time.Time
}

type accessClaims struct {
	jwt.Claims
	ClientID string `json:"client_id"`
	Scope    string `json:"scope"`
}

type idClaims struct {
	jwt.Claims
	AuthTime          *jwt.NumericDate `json:"auth_time"`
	Nonce             string           `json:"nonce,omitempty"`
	AccessTokenHash   string           `json:"at_hash"`
	PreferredUsername string           `json:"preferred_username"`
}

// tokens makes a grant's access and ID token.
func (is *Issuer) tokens(g grant) (access, id string, err error) {
	now := time.Now()
	claims := jwt.Claims{
		Issuer:   is.config.URL,
		Subject:  g.user,
		Audience: jwt.Audience{is.config.ClientID},
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(tokenLifetime)),
	}
	accessPart := claims
	accessPart.ID = rand.Text()
	access, err = jwt.Signed(is.key.accessType).Claims(accessClaims{Claims: accessPart, ClientID: is.config.ClientID, Scope: g.scope}).Serialize()
	if err != nil {
		return "", "", fmt.Errorf("sign access token: %w", err)
	}
	sum := sha256.Sum256([]byte(access))
	id, err = jwt.Signed(is.key.idToken).Claims(idClaims{
		Claims:            claims,
		AuthTime:          jwt.NewNumericDate(g.authenticated),
		Nonce:             g.nonce,
		AccessTokenHash:   base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2]),
		PreferredUsername: g.user,
	}).Serialize()
	if err != nil {
		return "", "", fmt.Errorf("sign ID token: %w", err)
	}
	return access, id, nil
}

// verifyAccess returns whose access token this is.
func (is *Issuer) verifyAccess(token string) (user string, err error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{signingAlgorithm})
	if err != nil {
		return "", err
	}
	var claims accessClaims
	if err := parsed.Claims(is.key.private.Public(), &claims); err != nil {
		return "", err
	}
	if parsed.Headers[0].ExtraHeaders[jose.HeaderType] != accessTokenType || claims.Expiry == nil {
		return "", errors.New("not an access token")
	}
	expected := jwt.Expected{Issuer: is.config.URL, AnyAudience: jwt.Audience{is.config.ClientID}, Time: time.Now()}
	if err := claims.ValidateWithLeeway(expected, 0); err != nil {
		return "", err
	}
	return claims.Subject, nil
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
