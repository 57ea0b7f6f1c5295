// Package api is the HTTP edge of the gateway: it turns requests into calls of
// the event log and the token keeper, and their answers into HTTP.
//
// # Promise
//
// A 202 is written only after the log's Append returned, so it means on disk.
// Whatever the input, the answer is the right status with a sentence that says
// what to do, and the next request on the same server works. The bytes of a
// message are handed on exactly as they came.
//
// # Authority
//
// None: this package holds no state that outlives a request, but counters. Who
// may publish is the publisher keys' or the OIDC issuer's to say, who a user is
// the issuer's, what was accepted the log's.
//
// # What POST /v1/messages does with several messages
//
// JSON is all or nothing: a body that is not one valid JSON text stops
// everything. Beyond that each item stands for itself: items that break a rule
// get a problem of their own in the answer, and the others are appended together,
// in the order given, in one transaction. So a 202 with results has to be read:
// each result has either a seq or a problem. When no item was accepted, the
// status is that of the problem they share, or 422. A 5xx is about the whole
// request; repeating it is safe with idempotency keys.
//
// A body is read in one pass, and the limits apply while it is read. Reading ends at
// the first problem of a single message and at the entry that is one too many of a
// list: whether the rest is JSON is not asked.
//
// A message of null is refused: it is what a value that somebody forgot looks
// like, and a client without a subprotocol would be shown the word "null".
//
// Names of fields are matched exactly, and none may come twice: the reader that
// takes the first and the reader that takes the last would see different messages.
//
// # What a connect costs
//
// A token is redeemed in a statement of its own, before the session is attached,
// and not in the attach's transaction: it is used up whatever becomes of the
// connection. Rolled back together, an attach that fails or is tried again would
// bring the token back for whoever has seen it; and tokens would have to know
// sessions, or sessions tokens. The price is a round trip, and a new token after a
// refusal that only the session can tell: too many of the user's, the log out of
// reach. What can be refused before (no WebSocket, a foreign origin, a replica
// that stops) does not cost the token.
//
// # Publishers
//
// Each credential (API key, OIDC client) has its share of the memory for bodies, of the
// processors that decode long ones and of the look-ups of statuses (shares), and a rate of messages and bytes
// (rates). Both are of this replica alone. They are checked before a body is read, so
// that what is refused costs little, and rates again when it is known how much it is.
//
// # Errors
//
// Everything that is not a success is an RFC 9457 problem document from the one
// table in problems.go. Causes are logged, once, at the place that writes the
// document, and never shown. Tokens, keys and messages are never logged.
//
// # Failure
//
// The log overloaded or out of reach is a 503 with a Retry-After that differs
// from answer to answer, so that those who were refused together do not return
// together. When it is not known whether the message was written, the problem is
// outcome-unknown, and only the idempotency key can decide. A panic is a 500, is
// logged with its stack, and costs its connection.
package api
