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
	newIssuer := func(s source) *issuer {
		return &issuer{
			source: s, client: client, interval: v.cfg.RefetchInterval, timeout: v.cfg.Timeout,
			// Through v, so that there is one clock.
			now:     func() time.Time { return v.now() },
			metrics: v.metrics,
		}
	}
	v.users = newIssuer(source{v.cfg.Issuer, v.cfg.DiscoveryURL, v.cfg.KeysURL})
	v.publishers = v.users
	if v.cfg.PublisherIssuer != v.cfg.Issuer {
		v.publishers = newIssuer(source{issuer: v.cfg.PublisherIssuer})
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
		return verified{}, rejection{reason: ReasonOversized}
	}
	header, err := v.readHeader(raw)
	if err != nil {
		return verified{}, err
	}
	keys := &keySet{issuer: from, algorithms: v.algorithms}
	token, err := oidc.NewVerifier(from.source.issuer, keys, &oidc.Config{
		SkipClientIDCheck:    true, // the two kinds differ in it
		SupportedSigningAlgs: v.cfg.Algorithms,
		Now:                  func() time.Time { return v.now().Add(-leeway) },
	}).Verify(ctx, raw)
	if err == nil {
		out := verified{kind: strings.ToLower(header.Type), audience: token.Audience}
		if token.Claims(&out.claims) != nil {
			return verified{}, rejection{reason: ReasonMalformed}
		}
		return out, nil
	}
	if keys.failed != nil {
		return verified{}, keys.failed
	}
	return verified{}, rejection{reason: v.whyNot(err, keys.payload, from.source.issuer)}
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
// reason; the JOSE library checks the algorithm again. What the issuer announces is
// looked at later, when it is known.
func (v *Verifier) readHeader(raw string) (header, error) {
	var h header
	first, rest, _ := strings.Cut(raw, ".")
	if strings.Count(rest, ".") != 1 {
		return h, rejection{reason: ReasonMalformed}
	}
	text, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil || json.Unmarshal(text, &h) != nil {
		return h, rejection{reason: ReasonMalformed}
	}
	if !slices.Contains(v.cfg.Algorithms, h.Algorithm) {
		return h, refusedAlgorithm(h.Algorithm)
	}
	return h, nil
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
		return nil, rejection{reason: ReasonMalformed}
	}
	started := k.issuer.now()
	current, version, err := k.issuer.current(ctx)
	if err != nil {
		return nil, err
	}
	payload, first := tryKeys(signed, current)
	if payload != nil {
		return payload, nil
	}
	// Also when the key's id is known: an issuer may have a new key by an old
	// name.
	newer, err := k.issuer.newer(ctx, version, started, first == rejectedKey)
	if errors.Is(err, errHeldBack) && first != rejectedKey {
		return nil, first
	}
	if err != nil {
		return nil, err
	}
	payload, second := tryKeys(signed, newer)
	switch {
	case payload != nil:
		return payload, nil
	case second == rejectedKey:
		return nil, first // what is known of the key that is gone
	}
	return nil, second
}

var rejectedKey error = rejection{reason: ReasonKey}

// tryKeys returns the token's payload when one of the issuer's keys has signed it,
// or else why none has. A token without a key id is tried with all.
func tryKeys(signed *jose.JSONWebSignature, by published) (payload []byte, why error) {
	header := signed.Signatures[0].Header
	if !by.announces(header.Algorithm) {
		return nil, refusedAlgorithm(header.Algorithm)
	}
	why = rejectedKey
	for _, key := range by.keys {
		if header.KeyID != "" && key.KeyID != header.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := signed.Verify(key.Key); err == nil {
			return payload, nil
		}
		why = rejection{reason: ReasonSignature}
	}
	return nil, why
}
