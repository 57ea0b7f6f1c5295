// Package publishers keeps the API keys with which back ends post messages.
//
// # Promise
//
// Who presents a key that was created and not revoked is that publisher, with
// the scopes and the user prefix the key was created with. A busy publisher
// costs one query in [RevokeWithin], not one per request. A revocation is in
// force at once on the replica that made it and within RevokeWithin on all
// others (while Postgres cannot be asked: within [Grace]); so is a change of its rates.
//
// # Form
//
// A key is rk_<key id>_<secret>: the id is 16 hexadecimal digits and not
// secret, the secret is 64 of them, 256 random bits. Only the secret's SHA-256
// is stored. That is enough, where a password would need a slow hash: nobody
// can go through 2²⁵⁶ secrets. The id finds the row, and the secret's hash is
// compared in constant time.
//
// # Authority
//
// Table publishers is. What is in memory is a copy of at most RevokeWithin, of
// a key that exists; of one that does not, for a second, so that a client with
// a mistyped key cannot occupy the database. Both copies are bounded in number,
// and kept apart, so that a flood of invented keys cannot push the real ones
// out. At most a few look-ups of unknown keys run at the same time.
//
// # Failure
//
// ErrRejected: malformed, unknown, revoked, or the wrong secret, which
// [ReasonOf] tells apart for the log; the answer to the client should not.
// ErrUnavailable: Postgres could not be asked, and there is no copy younger
// than Grace. A key that is known goes on working while Postgres restarts,
// because what publishers need most in that minute is the right answer: 503
// from the log, and not that their key is wrong. No error contains a key.
package publishers
