package devstack

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

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
	access, err = jwt.Signed(is.key.accessToken).Claims(accessClaims{Claims: accessPart, ClientID: is.config.ClientID, Scope: g.scope}).Serialize()
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
