package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxTokenBytes: tokens with many groups in them reach several KiB.
	maxTokenBytes = 16 << 10
	// leeway is by how much the issuer's clock may be behind ours at exp.
	leeway = 5 * time.Second
)

// Verifier checks tokens. It is safe for concurrent use.
type Verifier struct {
	cfg        Config
	invalid    error // of cfg
	algorithms []jose.SignatureAlgorithm
	users      *issuer
	publishers *issuer // the same as users when they have one issuer
	now        func() time.Time
	metrics    metrics
}

// New returns a Verifier. It asks nobody anything before the first token comes.
// The metrics go to reg, unless it is nil.
func New(cfg Config, reg prometheus.Registerer) *Verifier {
	v := &Verifier{invalid: cfg.Validate(), now: time.Now, metrics: newMetrics(reg)}
	v.cfg = cfg.withDefaults()
	for _, alg := range v.cfg.Algorithms {
		v.algorithms = append(v.algorithms, jose.SignatureAlgorithm(alg))
	}
	client := newClient(v.cfg)
	newIssuer := func(url string) *issuer {
		return &issuer{
			url: url, client: client, interval: v.cfg.RefetchInterval, timeout: v.cfg.Timeout,
			// Through v, so that there is one clock.
			now:     func() time.Time { return v.now() },
			metrics: v.metrics,
		}
	}
	v.users = newIssuer(v.cfg.Issuer)
	v.publishers = v.users
	if v.cfg.PublisherIssuer != v.cfg.Issuer {
		v.publishers = newIssuer(v.cfg.PublisherIssuer)
	}
	return v
}

// verified is a token whose signature, issuer and times are in order.
type verified struct {
	kind     string // the header's typ, in lower case
	audience []string
	claims   claims
}

// verify checks all that is the same for ID tokens and access tokens.
func (v *Verifier) verify(ctx context.Context, from *issuer, raw string) (verified, error) {
	if v.invalid != nil {
		return verified{}, fmt.Errorf("%w: configuration: %w", ErrUnavailable, v.invalid)
	}
	if len(raw) > maxTokenBytes {
		return verified{}, rejection{ReasonOversized}
	}
	header, why := v.readHeader(raw)
	if why != "" {
		return verified{}, rejection{why}
	}
	keys := &keySet{issuer: from, algorithms: v.algorithms}
	token, err := oidc.NewVerifier(from.url, keys, &oidc.Config{
		SkipClientIDCheck:    true, // the two kinds differ in it
		SupportedSigningAlgs: v.cfg.Algorithms,
		Now:                  func() time.Time { return v.now().Add(-leeway) },
	}).Verify(ctx, raw)
	if err == nil {
		out := verified{kind: strings.ToLower(header.Type), audience: token.Audience}
		if token.Claims(&out.claims) != nil {
			return verified{}, rejection{ReasonMalformed}
		}
		return out, nil
	}
	if keys.failed != nil {
		return verified{}, keys.failed
	}
	return verified{}, rejection{v.whyNot(err, keys.payload, from.url)}
}

// whyNot finds the reason of an error of go-oidc that came after the signature
// was found good; most of its errors are only text, and the text may quote the
// token.
func (v *Verifier) whyNot(err error, payload []byte, issuer string) Reason {
	var c claims
	if payload == nil || json.Unmarshal(payload, &c) != nil {
		return ReasonMalformed
	}
	var expired *oidc.TokenExpiredError
	switch iss, _ := c.text("iss"); {
	case errors.As(err, &expired) && c.has("exp"):
		return ReasonExpired
	case errors.As(err, &expired):
		return ReasonNoExpiry
	case iss != issuer:
		return ReasonIssuer
	case c.has("nbf"):
		return ReasonNotYet
	}
	return ReasonMalformed
}

type header struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
}

// readHeader checks the token's form, and its algorithm for the sake of the
// reason; the JOSE library checks the algorithm again.
func (v *Verifier) readHeader(raw string) (header, Reason) {
	var h header
	first, rest, _ := strings.Cut(raw, ".")
	if strings.Count(rest, ".") != 1 {
		return h, ReasonMalformed
	}
	text, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil || json.Unmarshal(text, &h) != nil {
		return h, ReasonMalformed
	}
	if !slices.Contains(v.cfg.Algorithms, h.Algorithm) {
		return h, ReasonAlgorithm
	}
	return h, ""
}

// keySet checks the signature of one token for go-oidc, which passes on only the
// text of its error. So it keeps what has happened: failed is an ErrRejected or
// ErrUnavailable, payload what the signature was good for.
type keySet struct {
	issuer     *issuer
	algorithms []jose.SignatureAlgorithm

	failed  error
	payload []byte
}

// VerifySignature implements oidc.KeySet.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	k.payload, k.failed = k.check(ctx, token)
	return k.payload, k.failed
}

func (k *keySet) check(ctx context.Context, token string) ([]byte, error) {
	signed, err := jose.ParseSignedCompact(token, k.algorithms)
	if err != nil {
		return nil, rejection{ReasonMalformed}
	}
	keys, version, err := k.issuer.current(ctx)
	if err != nil {
		return nil, err
	}
	payload, known := tryKeys(signed, keys)
	if payload != nil {
		return payload, nil
	}
	// Also when the key's id is known: an issuer may have a new key by an old
	// name.
	keys, err = k.issuer.newer(ctx, version)
	if err != nil {
		return nil, err
	}
	payload, knownNow := tryKeys(signed, keys)
	switch {
	case payload != nil:
		return payload, nil
	case known || knownNow:
		return nil, rejection{ReasonSignature}
	}
	return nil, rejection{ReasonKey}
}

// tryKeys returns the token's payload when one of the keys has signed it, and
// whether there was any to try. A token without a key id is tried with all.
func tryKeys(signed *jose.JSONWebSignature, keys []jose.JSONWebKey) (payload []byte, tried bool) {
	header := signed.Signatures[0].Header
	for _, key := range keys {
		if header.KeyID != "" && key.KeyID != header.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		tried = true
		if payload, err := signed.Verify(key.Key); err == nil {
			return payload, true
		}
	}
	return nil, tried
}
