package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"restante/internal/identity"
	"restante/internal/publishers"
)

// keyPrefix tells API keys from access tokens, which are JWTs or opaque.
const keyPrefix = "rk_"

// maxCredential bounds what is looked at as a credential; ID tokens with many
// groups in them reach several KiB.
const maxCredential = 16 << 10

// publisher is who posts or asks. Its name goes to the log with each message,
// and idempotency keys belong to it.
type publisher struct {
	name       string
	credential string // whose share of the replica it takes: each key and each OIDC client has its own
	userPrefix string // of every user it may name
	limits     limits
}

// publisher authenticates a back end by API key or OIDC access token, and checks
// that it may do what it wants to do.
func (a *API) publisher(x *exchange, r *http.Request, scope string) (publisher, *problem) {
	credential, p := bearer(r.Header, false)
	if p != nil {
		return publisher{}, p
	}
	var (
		from   publisher
		scopes []string
	)
	if strings.HasPrefix(credential, keyPrefix) {
		key, err := a.keys.Authenticate(r.Context(), credential)
		if err != nil {
			return publisher{}, credentialProblem(r.Context(), err, "The API key is not valid, or was revoked.")
		}
		// Keys of one name are one publisher, so that a key can be replaced
		// between a message and its retry.
		from, scopes = publisher{name: key.Name, credential: key.KeyID, userPrefix: key.UserPrefix, limits: a.rates.limits(key.Rates)}, key.Scopes
		if from.name == "" {
			from.name = key.KeyID
		}
	} else {
		token, err := a.identity.Publisher(r.Context(), credential)
		if err != nil {
			return publisher{}, credentialProblem(r.Context(), err, "The bearer token is neither an API key (rk_…) nor an access token that is accepted here.")
		}
		name := "oidc:" + token.ID
		from, scopes = publisher{name: name, credential: name, limits: a.rates.limits(publishers.Rates{})}, token.Scopes
	}
	x.publisher, x.credential = from.name, from.credential
	if !slices.Contains(scopes, scope) {
		wanted := "the scope " + scope
		if !strings.HasPrefix(credential, keyPrefix) {
			wanted = a.identity.Wanted(scope)
		}
		return publisher{}, &problem{kind: missingScope, detail: "The credential is good, and lacks " + wanted + "."}
	}
	return from, nil
}

// user authenticates a user by ID token. The seed's clients send it without a
// scheme.
func (a *API) user(r *http.Request, bare bool) (identity.User, *problem) {
	idToken, p := bearer(r.Header, bare)
	if p != nil {
		return identity.User{}, p
	}
	user, err := a.identity.User(r.Context(), idToken)
	if err != nil {
		return identity.User{}, credentialProblem(r.Context(), err, "The ID token was rejected: "+idTokenReason(err)+".")
	}
	return user, nil
}

// idTokenReason says in plain words why an ID token was rejected, as far as the
// user's application can do something about it. The exact reason is in the log.
func idTokenReason(err error) string {
	switch identity.ReasonOf(err) {
	case identity.ReasonExpired:
		return "it has expired; sign in again"
	case identity.ReasonNotYet:
		return "it is not valid yet; compare the clocks"
	case identity.ReasonTokenUse:
		return "it is another kind of token; send the ID token"
	case identity.ReasonAudience:
		return "it was issued to an application that is not served here"
	case identity.ReasonAlgorithm:
		if name := identity.AlgorithmOf(err); name != "" {
			return "it is signed with " + name + ", which the issuer does not announce or the operator does not accept"
		}
		return "it names no algorithm that is accepted here"
	case identity.ReasonIssuer, identity.ReasonKey, identity.ReasonSignature:
		return "it was not signed by the issuer that is trusted here"
	case identity.ReasonUserID, identity.ReasonUnverified:
		return "it names no user that can be served here"
	default:
		return "it is not an ID token"
	}
}

// bearer returns the credential of the Authorization header.
func bearer(h http.Header, bare bool) (string, *problem) {
	values := h["Authorization"]
	if len(values) == 0 || len(values) == 1 && values[0] == "" {
		return "", &problem{kind: unauthenticated, detail: "Send the credential as Authorization: Bearer <credential>."}
	}
	if len(values) > 1 {
		return "", &problem{kind: unauthenticated, detail: "Send one Authorization header."}
	}
	scheme, credential, spaced := strings.Cut(values[0], " ")
	switch {
	case spaced && strings.EqualFold(scheme, "Bearer"):
		credential = strings.TrimLeft(credential, " ")
	case !spaced && bare:
		credential = scheme
	default:
		return "", &problem{kind: unauthenticated, detail: "The Authorization header has to begin with Bearer."}
	}
	if credential == "" || len(credential) > maxCredential {
		return "", &problem{kind: unauthenticated, detail: "The credential is empty, or longer than any real one."}
	}
	return credential, nil
}

// credentialProblem tells a credential that is no good from one that could not
// be checked. The cause names the reason, never the credential.
func credentialProblem(ctx context.Context, err error, rejected string) *problem {
	switch {
	case errors.Is(err, identity.ErrRejected), errors.Is(err, publishers.ErrRejected):
		return &problem{kind: unauthenticated, detail: rejected, cause: err}
	case errors.Is(err, identity.ErrUnavailable), errors.Is(err, publishers.ErrUnavailable), ctx.Err() != nil:
		return &problem{kind: identityUnavailable, cause: err,
			detail: "The credential could not be checked, because what it is checked against cannot be reached. Repeat the request after the time in Retry-After."}
	}
	return &problem{kind: internalError, detail: internalDetail, cause: err}
}
