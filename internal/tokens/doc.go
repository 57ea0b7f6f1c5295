// Package tokens issues and redeems the single-use tokens with which a user's
// client opens a connection.
//
// # Promise
//
// A token opens at most one connection, on whichever replica it is presented,
// however many present it at once, for about 30 seconds after it was issued.
// It can be neither read, forged nor altered without a key of the keyring.
//
// # Form
//
// A token is a compact JWE: alg "dir", enc "A256GCM", the key's id as "kid",
// nothing else in its header. Inside are iss and aud (both this service), sub,
// preferred_username, iat, exp and jti. One token has exactly one spelling:
// line breaks, padding, stray base64 bits and shifted dots are refused before
// anything is decrypted.
//
// # Authority
//
// The keyring says who could have written a token; the row in table tokens says
// that it was not used yet. Redeeming is the DELETE of that row: Postgres lets
// one of N concurrent deleters have it. The table is unlogged: a crash of
// Postgres forgets every token, which makes them invalid and never usable
// twice.
//
// # States
//
//	issued ──Redeem──▶ used        (row deleted; any further Redeem: rejected)
//	issued ──time────▶ expired     (row deleted by Redeem or by Purge)
//
// # Clocks
//
// Three clocks take part: the issuing replica's (it writes exp), the redeeming
// replica's (it checks exp, with 5 s of leeway) and Postgres's. The row's life
// is both set and checked by Postgres's clock, so it is one clock's 30 seconds
// whatever the replicas' clocks say: a replica whose clock stands still cannot
// let an old token in, and a Postgres whose clock is off by an hour does not
// turn anybody away. A redeeming replica that runs ahead of the issuing one by
// more than TTL + leeway rejects its tokens: that fails closed, is counted as
// "expired", and is what time synchronisation is for.
//
// # Failure
//
// What is wrong with the token is ErrRejected with one of a fixed list of
// reasons, for the log and the metric; what is wrong with Postgres is
// ErrUnavailable. A redemption that ended with ErrUnavailable may have used the
// token up: the client fetches a new one. No error and no log line contains a
// token, a jti or a key.
//
// # Keyring
//
// Keys are kept in a JWK set with symmetric keys:
//
//	{"keys":[{"kty":"oct","kid":"k20261123-9f2c41d0","alg":"dir","use":"enc","k":"…32 bytes, base64url…"}]}
//
// The first key issues, all of them open. The file is looked at every few
// seconds, and at once when a token names a key that is not known, so that
// replicas which share a file follow a rotation without refusing anybody. A
// file that cannot be read keeps the keys in force, is logged once and counted
// until it is repaired.
//
// [AddKey] in front rotates (old tokens still open; RemoveKey the old one after
// a minute). Where each replica has its own copy of the file, and the copies
// change one after the other: AddKey at the end everywhere, then [PromoteKey]
// everywhere, then [RemoveKey]. Rotate long before 2³² tokens under one key,
// because A256GCM's random nonces may repeat from there on; daily or monthly is
// ample.
//
// # Box
//
// A [Box] seals what replicas tell each other through the database, with keys derived
// from the keyring's: not a token and not stored, it is here because the keys are.
package tokens
