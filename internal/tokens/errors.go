package tokens

import (
	"errors"
	"fmt"
)

var (
	// ErrRejected: the token opens nothing, now or later. [ReasonOf] says why.
	ErrRejected = errors.New("token rejected")
	// ErrUnavailable: Postgres could not be asked. The token may be used up.
	ErrUnavailable = errors.New("tokens are unavailable")
)

// Reason says why a token was rejected. It is one of the constants below, so it
// can be a metric's label and stand in a log line.
type Reason string

// The reasons, in the order in which they are looked for.
const (
	ReasonOversized  Reason = "oversized"  // longer than a token of ours can be
	ReasonMalformed  Reason = "malformed"  // not a compact JWE in its one spelling; also empty
	ReasonAlgorithm  Reason = "algorithm"  // alg or enc is not dir and A256GCM
	ReasonCompressed Reason = "compressed" // has a zip header
	ReasonKey        Reason = "key"        // kid missing, or no such key in the keyring
	ReasonDecrypt    Reason = "decrypt"    // altered, or written with another key
	ReasonClaims     Reason = "claims"     // decrypted, but what is inside are not our claims
	ReasonIssuer     Reason = "issuer"
	ReasonAudience   Reason = "audience"
	ReasonNoExpiry   Reason = "no_expiry"
	ReasonExpired    Reason = "expired"
	ReasonNoSubject  Reason = "no_subject"
	ReasonNoID       Reason = "no_id"
	ReasonUsed       Reason = "used" // redeemed before, or forgotten in a crash of Postgres
)

var reasons = []Reason{
	ReasonOversized, ReasonMalformed, ReasonAlgorithm, ReasonCompressed, ReasonKey, ReasonDecrypt, ReasonClaims,
	ReasonIssuer, ReasonAudience, ReasonNoExpiry, ReasonExpired, ReasonNoSubject, ReasonNoID, ReasonUsed,
}

// rejection is an ErrRejected with its reason. It holds no cause on purpose: the
// JOSE library's errors quote parts of what they were given.
type rejection struct{ reason Reason }

func (r rejection) Error() string        { return fmt.Sprintf("%v: %s", ErrRejected, r.reason) }
func (r rejection) Is(target error) bool { return target == ErrRejected }

// ReasonOf returns why a token was rejected, or "" when err is not ErrRejected.
func ReasonOf(err error) Reason {
	var r rejection
	if errors.As(err, &r) {
		return r.reason
	}
	return ""
}
