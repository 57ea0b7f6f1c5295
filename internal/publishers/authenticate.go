package publishers

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	keyPrefix    = "rk_" // recognisable for people and for scanners of leaked secrets
	idDigits     = 16
	secretDigits = 64
	keyLength    = len(keyPrefix) + idDigits + 1 + secretDigits
)

// Reason says why a key was rejected: a metric's label, and a word for the log.
type Reason string

// The reasons.
const (
	ReasonMalformed Reason = "malformed" // not the form of a key
	ReasonUnknown   Reason = "unknown"   // no key has this id
	ReasonSecret    Reason = "secret"    // the id exists, the secret is another one
	ReasonRevoked   Reason = "revoked"
)

var reasons = []Reason{ReasonMalformed, ReasonUnknown, ReasonSecret, ReasonRevoked}

type rejection struct{ reason Reason }

func (r rejection) Error() string        { return fmt.Sprintf("%v: %s", ErrRejected, r.reason) }
func (r rejection) Is(target error) bool { return target == ErrRejected }

// ReasonOf returns why a key was rejected, or "" when err is not ErrRejected.
func ReasonOf(err error) Reason {
	var r rejection
	if errors.As(err, &r) {
		return r.reason
	}
	return ""
}

// Authenticate returns the publisher whose key this is. It returns ErrRejected,
// or ErrUnavailable when neither Postgres nor a copy of at most [Grace] can tell.
func (k *Keys) Authenticate(ctx context.Context, key string) (p Publisher, err error) {
	var stale bool
	defer func() { k.metrics.count(stale, err) }()
	keyID, secret, ok := splitKey(key)
	if !ok {
		return Publisher{}, fmt.Errorf("authenticate: %w", rejection{ReasonMalformed})
	}
	known, stale, err := k.cache.get(ctx, keyID)
	if err != nil {
		return Publisher{}, fmt.Errorf("authenticate: %w: %w", ErrUnavailable, err)
	}
	if !known.found {
		return Publisher{}, fmt.Errorf("authenticate: %w", rejection{ReasonUnknown})
	}
	hash := hashSecret(secret)
	if subtle.ConstantTimeCompare(hash[:], known.hash) != 1 {
		return Publisher{}, fmt.Errorf("authenticate: %w", rejection{ReasonSecret})
	}
	// After the secret: only the key's owner learns that it existed.
	if known.publisher.RevokedAt != nil {
		return Publisher{}, fmt.Errorf("authenticate: %w", rejection{ReasonRevoked})
	}
	p = known.publisher
	p.Scopes = slices.Clone(p.Scopes) // the copy in memory is everybody's
	return p, nil
}

func keyText(keyID, secret string) string { return keyPrefix + keyID + "_" + secret }

// splitKey accepts the one spelling of a key only.
func splitKey(key string) (keyID, secret string, ok bool) {
	if len(key) != keyLength || !strings.HasPrefix(key, keyPrefix) {
		return "", "", false
	}
	keyID, secret, ok = strings.Cut(key[len(keyPrefix):], "_")
	if !ok || !isHex(keyID, idDigits) || !isHex(secret, secretDigits) {
		return "", "", false
	}
	return keyID, secret, true
}

func isHex(s string, digits int) bool {
	if len(s) != digits {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func hashSecret(secret string) [sha256.Size]byte { return sha256.Sum256([]byte(secret)) }

// row is what the table has for a key id.
type row struct {
	found     bool
	publisher Publisher
	hash      []byte
}

const loadSQL = `SELECT key_id, name, scopes, user_prefix, rate_messages, rate_bytes, created_at, revoked_at, secret_hash
	FROM publishers WHERE key_id = $1`

func (k *Keys) load(ctx context.Context, keyID string) (row, error) {
	r := row{found: true}
	p := &r.publisher
	err := k.db.QueryRow(ctx, loadSQL, keyID).
		Scan(&p.KeyID, &p.Name, &p.Scopes, &p.UserPrefix, &p.Rates.Messages, &p.Rates.Bytes, &p.CreatedAt, &p.RevokedAt, &r.hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return row{}, nil
	}
	return r, err
}
