package publishers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

// What a publisher may do.
const (
	ScopePublish = "publish" // post messages
	ScopeRead    = "read"    // ask for the state of messages and users
)

const (
	maxNameBytes   = 128
	maxPrefixBytes = 256 // a user id's limit
	maxListed      = 10_000

	// oidcPrefix begins the names of publishers that come with an OIDC access
	// token. Idempotency keys belong to names, so a key must not be able to take
	// one of theirs.
	oidcPrefix = "oidc:"

	// statementTimeout bounds each statement, waiting for a connection included.
	statementTimeout = 5 * time.Second
)

var (
	// ErrRejected: the key opens nothing. [ReasonOf] says why.
	ErrRejected = errors.New("API key rejected")
	// ErrUnavailable: Postgres could not be asked.
	ErrUnavailable = errors.New("API keys are unavailable")
	// ErrNotFound: no key has this id.
	ErrNotFound = errors.New("no such API key")
	// ErrInvalid: a key cannot be created like this; the text says why.
	ErrInvalid = errors.New("invalid API key settings")
)

// Publisher is one API key without its secret.
type Publisher struct {
	KeyID      string
	Name       string
	Scopes     []string // sorted; of ScopePublish and ScopeRead
	UserPrefix string   // users whose id begins with it are the only ones within reach; "" for all
	Rates      Rates
	CreatedAt  time.Time
	RevokedAt  *time.Time // nil while the key works
}

// HasScope reports whether the key was created with this scope.
func (p Publisher) HasScope(scope string) bool { return slices.Contains(p.Scopes, scope) }

// MayReach reports whether the key may post to, and ask about, this user.
func (p Publisher) MayReach(userID string) bool { return strings.HasPrefix(userID, p.UserPrefix) }

// Keys creates, revokes and checks API keys. It is safe for concurrent use.
type Keys struct {
	db      *pgxpool.Pool
	cache   *cache
	metrics metrics
}

// New returns the keys in db. It does not touch the database. The metrics go to
// reg, unless it is nil.
func New(db *pgxpool.Pool, reg prometheus.Registerer) *Keys {
	k := &Keys{db: db}
	k.cache = newCache(k.load)
	k.metrics = newMetrics(reg, k.cache)
	return k
}

const createSQL = `INSERT INTO publishers (key_id, name, secret_hash, scopes, user_prefix, rate_messages, rate_bytes)
	VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING created_at`

// Create makes a key and returns it: the only time that its text is to be had.
// name is for people and for the log (1 to 128 bytes; several keys may share
// one, so that a publisher can be given a new key before the old one is
// revoked), scopes are one or both of ScopePublish and ScopeRead, userPrefix may
// be "". It returns ErrInvalid with a sentence that helps, or ErrUnavailable.
func (k *Keys) Create(ctx context.Context, name string, scopes []string, userPrefix string) (Publisher, string, error) {
	return k.CreateLimited(ctx, name, scopes, userPrefix, Rates{})
}

// CreateLimited is Create for a key with rates of its own.
func (k *Keys) CreateLimited(ctx context.Context, name string, scopes []string, userPrefix string, rates Rates) (Publisher, string, error) {
	scopes, err := checkSettings(name, scopes, userPrefix)
	if err == nil {
		err = rates.check()
	}
	if err != nil {
		return Publisher{}, "", fmt.Errorf("create API key: %w: %w", ErrInvalid, err)
	}
	var id [idDigits / 2]byte
	var random [secretDigits / 2]byte
	if _, err := rand.Read(id[:]); err != nil {
		return Publisher{}, "", fmt.Errorf("create API key: %w", err)
	}
	if _, err := rand.Read(random[:]); err != nil {
		return Publisher{}, "", fmt.Errorf("create API key: %w", err)
	}
	p := Publisher{KeyID: hex.EncodeToString(id[:]), Name: name, Scopes: scopes, UserPrefix: userPrefix, Rates: rates}
	secret := hex.EncodeToString(random[:])
	hash := hashSecret(secret)
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if err := k.db.QueryRow(ctx, createSQL, p.KeyID, name, hash[:], scopes, userPrefix, rates.Messages, rates.Bytes).Scan(&p.CreatedAt); err != nil {
		return Publisher{}, "", fmt.Errorf("create API key: %w: %w", ErrUnavailable, err)
	}
	return p, keyText(p.KeyID, secret), nil
}

// checkSettings returns the scopes sorted, each once.
func checkSettings(name string, scopes []string, userPrefix string) ([]string, error) {
	switch {
	case name == "" || len(name) > maxNameBytes:
		return nil, fmt.Errorf("the name has %d bytes; it needs 1 to %d", len(name), maxNameBytes)
	case !isText(name):
		return nil, errors.New("the name must be UTF-8 without control characters")
	case strings.HasPrefix(name, oidcPrefix):
		return nil, fmt.Errorf("the name must not begin with %s: publishers with OIDC tokens are called that", oidcPrefix)
	case len(userPrefix) > maxPrefixBytes:
		return nil, fmt.Errorf("the user prefix has %d bytes; at most %d are allowed", len(userPrefix), maxPrefixBytes)
	case !isText(userPrefix):
		return nil, errors.New("the user prefix must be UTF-8 without control characters")
	case len(scopes) == 0:
		return nil, fmt.Errorf("no scope given; choose %s, %s or both", ScopePublish, ScopeRead)
	}
	for _, s := range scopes {
		if s != ScopePublish && s != ScopeRead {
			return nil, fmt.Errorf("unknown scope %.20q; choose %s, %s or both", s, ScopePublish, ScopeRead)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(scopes))), nil
}

func isText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

const listSQL = `SELECT key_id, name, scopes, user_prefix, rate_messages, rate_bytes, created_at, revoked_at
	FROM publishers ORDER BY created_at, key_id LIMIT $1`

// List returns all keys, revoked ones too, the oldest first; no more than
// 10,000. It returns ErrUnavailable when the database does not answer.
func (k *Keys) List(ctx context.Context) ([]Publisher, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	rows, err := k.db.Query(ctx, listSQL, maxListed)
	if err != nil {
		return nil, fmt.Errorf("list API keys: %w: %w", ErrUnavailable, err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Publisher, err error) {
		err = row.Scan(&p.KeyID, &p.Name, &p.Scopes, &p.UserPrefix, &p.Rates.Messages, &p.Rates.Bytes, &p.CreatedAt, &p.RevokedAt)
		return p, err
	})
	if err != nil {
		return nil, fmt.Errorf("list API keys: %w: %w", ErrUnavailable, err)
	}
	return list, nil
}

const revokeSQL = `UPDATE publishers SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE key_id = $1`

// Revoke ends a key for good: here at once, on other replicas within
// [RevokeWithin]. To revoke twice is no error. It returns ErrNotFound when there
// is no such key, and ErrUnavailable.
func (k *Keys) Revoke(ctx context.Context, keyID string) error {
	if !isHex(keyID, idDigits) {
		return fmt.Errorf("revoke API key: %w", ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	tag, err := k.db.Exec(ctx, revokeSQL, keyID)
	// Also when the outcome is unknown: looking again is always right.
	k.cache.forget(keyID)
	if err != nil {
		return fmt.Errorf("revoke API key: %w: %w", ErrUnavailable, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("revoke API key: %w", ErrNotFound)
	}
	return nil
}
