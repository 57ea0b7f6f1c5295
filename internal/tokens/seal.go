package tokens

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// maxTokenBytes is the longest token that is looked at, and the longest that is
// issued. A usual one has 300 bytes; a user id of 256 bytes that all need
// escaping, with a name as long, stays below.
const maxTokenBytes = 2 << 10

// maxUsernameBytes clips what is shown of a user; it identifies nobody.
const maxUsernameBytes = 128

// claims is what a token holds. iss, aud, sub, exp and jti are required.
type claims struct {
	Issuer   string           `json:"iss"`
	Audience jwt.Audience     `json:"aud"`
	Subject  string           `json:"sub"`
	Username string           `json:"preferred_username,omitempty"`
	IssuedAt *jwt.NumericDate `json:"iat,omitempty"`
	Expiry   *jwt.NumericDate `json:"exp"`
	ID       string           `json:"jti"`
}

// seal encrypts claims into a token.
func (s *keyset) seal(c claims) (string, error) {
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	// Escaping for HTML would make six bytes of each < in a user id.
	enc.SetEscapeHTML(false)
	if err := enc.Encode(c); err != nil {
		return "", fmt.Errorf("encode claims: %w", err)
	}
	object, err := s.sealer.Encrypt(bytes.TrimSpace(plain.Bytes()))
	if err != nil {
		return "", fmt.Errorf("encrypt claims: %w", err)
	}
	token, err := object.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("serialize token: %w", err)
	}
	if len(token) > maxTokenBytes {
		return "", fmt.Errorf("the token would be %d bytes long; at most %d are redeemed", len(token), maxTokenBytes)
	}
	return token, nil
}

// open decrypts a token and checks all that can be known without the database.
// The order matters: cheap checks that need no key first, nothing inside is
// believed before it was decrypted.
func (r *Keyring) open(token, issuer string, now time.Time) (claims, error) {
	no := func(why Reason) (claims, error) { return claims{}, rejection{why} }
	if len(token) > maxTokenBytes {
		return no(ReasonOversized)
	}
	kid, why := readHeader(token)
	if why != "" {
		return no(why)
	}
	// Parsed before the key is looked for, so that an unknown kid in something
	// that is no token at all does not touch the keyring's file.
	object, err := jose.ParseEncryptedCompact(token, []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil || object.Header.KeyID != kid {
		return no(ReasonMalformed)
	}
	if why := checkExtraHeaders(object.Header); why != "" {
		return no(why)
	}
	key, ok := r.find(kid)
	if !ok {
		return no(ReasonKey)
	}
	plain, err := object.Decrypt(key.secret[:])
	if err != nil {
		return no(ReasonDecrypt)
	}
	var c claims
	if err := json.Unmarshal(plain, &c); err != nil {
		return no(ReasonClaims)
	}
	switch {
	case c.Issuer != issuer:
		return no(ReasonIssuer)
	case !c.Audience.Contains(issuer):
		return no(ReasonAudience)
	case c.Expiry == nil:
		return no(ReasonNoExpiry)
	case now.Add(-leeway).After(c.Expiry.Time()):
		return no(ReasonExpired)
	case c.Subject == "":
		return no(ReasonNoSubject)
	case c.ID == "":
		return no(ReasonNoID)
	case len(c.ID) > 64 || !onlyBase64URL(c.ID):
		return no(ReasonClaims)
	}
	return c, nil
}

// readHeader checks that a token is written the one way we write it, and returns
// its kid. The JOSE library is more generous: its base64 skips line breaks and
// ignores stray bits, and it joins ciphertext and tag wherever the dot stands,
// so that one token could be spelled in several ways.
func readHeader(token string) (kid string, why Reason) {
	parts := strings.Split(token, ".")
	if len(parts) != 5 {
		return "", ReasonMalformed
	}
	var decoded [5][]byte
	for i, p := range parts {
		b, err := base64.RawURLEncoding.Strict().DecodeString(p)
		if err != nil || !onlyBase64URL(p) {
			return "", ReasonMalformed
		}
		decoded[i] = b
	}
	var header struct {
		Algorithm  string `json:"alg"`
		Encryption string `json:"enc"`
		KeyID      string `json:"kid"`
	}
	if err := json.Unmarshal(decoded[0], &header); err != nil {
		return "", ReasonMalformed
	}
	switch {
	case header.Algorithm != string(jose.DIRECT) || header.Encryption != string(jose.A256GCM):
		return "", ReasonAlgorithm
	case len(decoded[1]) != 0 || len(decoded[2]) != 12 || len(decoded[4]) != 16:
		return "", ReasonMalformed
	case header.KeyID == "":
		return "", ReasonKey
	}
	return header.KeyID, ""
}

// checkExtraHeaders refuses every parameter that we do not write, as the JOSE
// library has read them: zip above all, for it inflates what it decrypts.
func checkExtraHeaders(h jose.Header) Reason {
	for name := range h.ExtraHeaders {
		switch name {
		case "enc":
		case "zip":
			return ReasonCompressed
		default:
			return ReasonMalformed
		}
	}
	if h.JSONWebKey != nil || h.Nonce != "" {
		return ReasonMalformed
	}
	return ""
}

func onlyBase64URL(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// clip shortens s to at most n bytes, between two characters, and drops bytes
// that are no text.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
