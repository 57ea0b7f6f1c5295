// Package identity checks what an OpenID Connect issuer has signed: the ID
// tokens of users, and the access tokens of publishers.
//
// # Promise
//
// Who comes out of [Verifier.User] was named by the configured issuer, to one of
// the configured audiences, in an ID token that is still valid; likewise
// [Verifier.Publisher] for access tokens. Any issuer with discovery works. The
// server starts, and stays up, without the issuer.
//
// # What is checked
//
// Length and form; the algorithm, which must be one that the issuer announces and an
// asymmetric one (never "none", never HMAC, whose secret would be the public key); the
// signature, with the issuer's published keys; iss; exp, which is required; nbf;
// then audience and use, differently for the two kinds. A user's token must
// have one of Audiences in aud, and must not say that it is something else than
// an ID token (the header's typ, Amazon Cognito's token_use, Keycloak's typ, the
// scopes of an access token). A publisher's must
// have one of PublisherAudiences in aud or, where the issuer writes no aud into
// access tokens, as client_id.
//
// # States of an issuer
//
//	unknown ──fetch──▶ known ──key not found, or older than an hour──▶ fetched again
//
// To fetch is to read the discovery document and the keys it points to. It
// happens when it is needed, once for all who need it, and seldom: anybody can
// send tokens with invented key ids, so after a few in a row the next fetch
// is RefetchInterval away, and after a failure it backs off from one second.
//
// # Authority
//
// The issuer's published keys are. A key that the issuer withdraws is accepted
// here for an hour at most, while the issuer can be reached. While it cannot,
// the last keys remain in use for a day, so that an issuer's outage does not
// become ours.
//
// # Failure
//
// ErrRejected with one of a fixed list of reasons: the token is no good.
// ErrUnavailable with the cause: the issuer could not be asked, or was asked just
// now and the token's key is not known, and what is known of it does not decide. No error contains any part of a token.
package identity
