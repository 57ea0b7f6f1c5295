package tokens

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// leeway is by how much the clocks of two replicas may differ before it
	// costs a token any of its life.
	leeway = 5 * time.Second
	// statementTimeout bounds each statement, waiting for a connection included.
	statementTimeout = 5 * time.Second
	// jtiBytes of randomness: nobody meets or guesses another token's.
	jtiBytes = 16

	defaultIssuer = "restante"
	defaultTTL    = 30 * time.Second
)

// Config says what tokens look like. Replicas of one service must agree on it.
type Config struct {
	Issuer string        // iss and aud of every token; default "restante"
	TTL    time.Duration // how long a token can be redeemed; default 30 s
}

// Tokens issues and redeems. It is safe for concurrent use.
type Tokens struct {
	db      *pgxpool.Pool
	keys    *Keyring
	issuer  string
	ttl     time.Duration
	now     func() time.Time
	metrics metrics
}

// Claims is what a redeemed token says.
type Claims struct {
	UserID    string
	Username  string // for display; may be empty
	ExpiresAt time.Time
}

// New returns Tokens on db with these keys. It does not touch the database. The
// metrics go to reg, unless it is nil.
func New(db *pgxpool.Pool, keys *Keyring, cfg Config, reg prometheus.Registerer) *Tokens {
	if cfg.Issuer == "" {
		cfg.Issuer = defaultIssuer
	}
	if cfg.TTL <= 0 {
		cfg.TTL = defaultTTL
	}
	return &Tokens{
		db:      db,
		keys:    keys,
		issuer:  cfg.Issuer,
		ttl:     cfg.TTL,
		now:     time.Now,
		metrics: newMetrics(reg, keys),
	}
}

// The row's life is counted by Postgres's clock from here to redeemSQL and
// purgeSQL, so that one clock measures it; see "Clocks" in the package
// documentation. clock_timestamp, because now() is the transaction's start.
const issueSQL = `INSERT INTO tokens (jti, expires_at) VALUES ($1, clock_timestamp() + $2::interval)`

// Issue returns a token with which userID can connect once, and when it expires
// (whole seconds; TTL from now, rounded up). The caller has validated userID. A
// username of more than 128 bytes is clipped.
//
// It returns ErrUnavailable when the database does not take the token.
func (t *Tokens) Issue(ctx context.Context, userID, username string) (token string, expires time.Time, err error) {
	defer func() { t.metrics.countIssued(err) }()
	if userID == "" || !utf8.ValidString(userID) {
		// Encoding would put U+FFFD for what is no text, and the token would
		// be another user's.
		return "", time.Time{}, errors.New("issue token: the user id is empty or not UTF-8")
	}
	var random [jtiBytes]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", time.Time{}, fmt.Errorf("issue token: %w", err)
	}
	jti := base64.RawURLEncoding.EncodeToString(random[:])
	now := t.now()
	expires = now.Add(t.ttl + time.Second - time.Nanosecond).Truncate(time.Second).UTC()
	token, err = t.keys.current.Load().seal(claims{
		Issuer:   t.issuer,
		Audience: jwt.Audience{t.issuer},
		Subject:  userID,
		Username: clip(username, maxUsernameBytes),
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(expires),
		ID:       jti,
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("issue token: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	if _, err := t.db.Exec(ctx, issueSQL, jti, expires.Sub(now)); err != nil {
		return "", time.Time{}, fmt.Errorf("issue token: %w: %w", ErrUnavailable, err)
	}
	return token, expires, nil
}

// Whoever deletes the row has redeemed the token. Concurrent deleters wait for
// the first one's row lock and then find nothing. A row that has lapsed is
// deleted too: nobody can use it any more.
const redeemSQL = `DELETE FROM tokens WHERE jti = $1 RETURNING expires_at > clock_timestamp() - $2::interval`

// Redeem uses the token up and returns what it says. Of all calls with one
// token, on all replicas, at most one succeeds.
//
// It returns ErrRejected, with a [Reason], when the token is not good, and
// ErrUnavailable when the database cannot tell; the token may be used up then.
func (t *Tokens) Redeem(ctx context.Context, token string) (c Claims, err error) {
	defer func() { t.metrics.countRedeemed(err) }()
	opened, err := t.keys.open(token, t.issuer, t.now())
	if err != nil {
		return Claims{}, fmt.Errorf("redeem: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	var live bool
	err = t.db.QueryRow(ctx, redeemSQL, opened.ID, leeway).Scan(&live)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return Claims{}, fmt.Errorf("redeem: %w", rejection{ReasonUsed})
	case err != nil:
		return Claims{}, fmt.Errorf("redeem: %w: %w", ErrUnavailable, err)
	case !live:
		return Claims{}, fmt.Errorf("redeem: %w", rejection{ReasonExpired})
	}
	return Claims{UserID: opened.Subject, Username: opened.Username, ExpiresAt: opened.Expiry.Time().UTC()}, nil
}

const (
	purgeBatch   = 5000
	purgeBatches = 200 // per call; at one call a minute that is 16,000 unused tokens a second
)

// A scan of the table: it holds the tokens of the last minute or two, and an
// index on expires_at would be written for every token to be read once a minute.
// Rows that are being redeemed at this moment are left to their redeemers.
const purgeSQL = `DELETE FROM tokens WHERE ctid = ANY (ARRAY(
	SELECT ctid FROM tokens WHERE expires_at <= clock_timestamp() - $1::interval LIMIT $2 FOR UPDATE SKIP LOCKED))`

// Purge deletes expired tokens in batches, each a transaction of its own, and
// returns how many it has deleted, also when it ends with ErrUnavailable. What
// it leaves is for the next call. Several replicas may purge at the same time.
func (t *Tokens) Purge(ctx context.Context) (deleted int64, err error) {
	for range purgeBatches {
		n, err := t.purgeOnce(ctx)
		deleted += n
		if err != nil {
			return deleted, fmt.Errorf("purge tokens: %w: %w", ErrUnavailable, err)
		}
		if n < purgeBatch {
			break
		}
	}
	return deleted, nil
}

func (t *Tokens) purgeOnce(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	tag, err := t.db.Exec(ctx, purgeSQL, leeway, purgeBatch)
	if err != nil {
		return 0, err
	}
	return tag.RowsAffected(), nil
}
