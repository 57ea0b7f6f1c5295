package identity

import (
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrRejected: the token is not accepted here. [ReasonOf] says why.
	ErrRejected = errors.New("identity rejected")
	// ErrUnavailable: the issuer could not be asked; the same token may be
	// accepted later.
	ErrUnavailable = errors.New("the identity issuer is unavailable")
)

// Reason says why a token was rejected. It is one of the constants below, so it
// can be a metric's label and stand in a log line.
type Reason string

// The reasons, in the order in which they are looked for.
const (
	ReasonDisabled    Reason = "disabled"     // no audience for access tokens of publishers is configured
	ReasonOversized   Reason = "oversized"    // longer than 16 KiB
	ReasonMalformed   Reason = "malformed"    // not a compact JWS, or what is inside are not claims
	ReasonAlgorithm   Reason = "algorithm"    // signed with an algorithm that the issuer does not announce or that is not accepted, or not at all
	ReasonKey         Reason = "key"          // the issuer has no key with this id
	ReasonSignature   Reason = "signature"    // altered, or signed with another key of the same id
	ReasonIssuer      Reason = "issuer"       // iss
	ReasonNoExpiry    Reason = "no_expiry"    // no exp
	ReasonExpired     Reason = "expired"      // exp
	ReasonNotYet      Reason = "not_yet"      // nbf
	ReasonTokenUse    Reason = "token_use"    // an access token where an ID token belongs, or the other way round
	ReasonAudience    Reason = "audience"     // aud, or client_id
	ReasonUserID      Reason = "user_id"      // no user id, or not one by the rules of the log
	ReasonUnverified  Reason = "unverified"   // the user id is an e-mail address that the issuer has not verified
	ReasonPublisherID Reason = "publisher_id" // no name for the publisher, or not one by the same rules
)

var reasons = []Reason{
	ReasonDisabled, ReasonOversized, ReasonMalformed, ReasonAlgorithm, ReasonKey, ReasonSignature, ReasonIssuer,
	ReasonNoExpiry, ReasonExpired, ReasonNotYet, ReasonTokenUse, ReasonAudience, ReasonUserID, ReasonUnverified,
	ReasonPublisherID,
}

// rejection is an ErrRejected with its reason. It holds no cause on purpose: the
// JOSE library's errors quote parts of what they were given.
type rejection struct {
	reason    Reason
	algorithm string // the one that was refused, if that is the reason and it has a known name
}

func (r rejection) Error() string {
	if r.algorithm != "" {
		return fmt.Sprintf("%v: %s %s", ErrRejected, r.reason, r.algorithm)
	}
	return fmt.Sprintf("%v: %s", ErrRejected, r.reason)
}
func (r rejection) Is(target error) bool { return target == ErrRejected }

// refusedAlgorithm rejects a token for its algorithm. The header is anybody's text:
// only names that are registered for JWS (RFC 7518, section 3.1; RFC 8037) are shown.
func refusedAlgorithm(name string) error {
	if !slices.Contains(asymmetric, name) && !slices.Contains([]string{"none", "HS256", "HS384", "HS512", "ES256K"}, name) {
		name = ""
	}
	return rejection{reason: ReasonAlgorithm, algorithm: name}
}

// AlgorithmOf returns the name of the algorithm that a token was rejected for, ""
// if that was not the reason or the name is not a known one.
func AlgorithmOf(err error) string {
	var r rejection
	errors.As(err, &r)
	return r.algorithm
}

// ReasonOf returns why a token was rejected, or "" when err is not ErrRejected.
func ReasonOf(err error) Reason {
	var r rejection
	if errors.As(err, &r) {
		return r.reason
	}
	return ""
}
