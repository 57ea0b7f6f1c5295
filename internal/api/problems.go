package api

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"

	"restante/internal/events"
)

// kind is one row of the problem table: a type of failure that a program can
// branch on. Name is the end of its type URI and never changes.
type kind struct {
	name       string
	status     int
	title      string
	retryAfter int  // seconds, before jitter; 0: repeating the same request is no use
	close      bool // the rest of the request is not worth reading
}

// typePrefix begins every problem's type. A URN, because the place where this
// server's documentation lives is the operator's business.
const typePrefix = "urn:restante:problem:"

// The problem table. These names and statuses are API.
var (
	malformedJSON     = &kind{name: "malformed-json", status: 400, title: "The body is not valid JSON"}
	invalidUTF8       = &kind{name: "invalid-utf-8", status: 400, title: "The body is not valid UTF-8"}
	incompleteBody    = &kind{name: "incomplete-body", status: 400, title: "The body ended early", close: true}
	unknownField      = &kind{name: "unknown-field", status: 400, title: "Unknown field"}
	duplicateField    = &kind{name: "duplicate-field", status: 400, title: "Field given twice"}
	badIdempotencyKey = &kind{name: "invalid-idempotency-key", status: 400, title: "Invalid idempotency key"}
	invalidRequest    = &kind{name: "invalid-request", status: 400, title: "Invalid request"}

	unauthenticated  = &kind{name: "unauthenticated", status: 401, title: "Not authenticated"}
	missingScope     = &kind{name: "missing-scope", status: 403, title: "This credential does not allow that"}
	userNotAllowed   = &kind{name: "user-not-allowed", status: 403, title: "This credential does not reach that user"}
	originNotAllowed = &kind{name: "origin-not-allowed", status: 403, title: "Origin not allowed"}

	notFound         = &kind{name: "not-found", status: 404, title: "No such path"}
	unknownUser      = &kind{name: "unknown-user", status: 404, title: "Unknown user"}
	unknownMessage   = &kind{name: "unknown-message", status: 404, title: "Unknown message"}
	methodNotAllowed = &kind{name: "method-not-allowed", status: 405, title: "Method not allowed"}
	bodyTimeout      = &kind{name: "body-timeout", status: 408, title: "The body came too slowly", close: true}
	keyReused        = &kind{name: "idempotency-key-reused", status: 409, title: "Idempotency key used with another message"}
	tooManyPending   = &kind{name: "too-many-pending", status: 409, title: "Too many messages of this user are pending"}

	messageTooLarge  = &kind{name: "message-too-large", status: 413, title: "Message too large"}
	bodyTooLarge     = &kind{name: "body-too-large", status: 413, title: "Body too large", close: true}
	wrongContentType = &kind{name: "unsupported-media-type", status: 415, title: "Unsupported media type"}
	invalidMessage   = &kind{name: "invalid-message", status: 422, title: "Invalid message"}
	messageTooDeep   = &kind{name: "message-too-deep", status: 422, title: "Message nested too deep"}
	tooManyMessages  = &kind{name: "too-many-messages", status: 422, title: "Too many messages in one request"}
	upgradeRequired  = &kind{name: "upgrade-required", status: 426, title: "WebSocket upgrade required"}

	rateLimited     = &kind{name: "rate-limited", status: 429, title: "Rate limit exceeded", retryAfter: 1}
	tooManySessions = &kind{name: "too-many-sessions", status: 429, title: "Too many connections", retryAfter: 10}

	internalError       = &kind{name: "internal", status: 500, title: "Internal error"}
	overloaded          = &kind{name: "overloaded", status: 503, title: "Overloaded", retryAfter: 1}
	replicaFull         = &kind{name: "replica-full", status: 503, title: "This replica holds as many connections as it may", retryAfter: 2, close: true}
	unavailable         = &kind{name: "unavailable", status: 503, title: "The event log is unavailable", retryAfter: 2}
	draining            = &kind{name: "draining", status: 503, title: "This replica is being stopped", retryAfter: 1}
	outcomeUnknown      = &kind{name: "outcome-unknown", status: 503, title: "Outcome unknown", retryAfter: 1}
	identityUnavailable = &kind{name: "identity-unavailable", status: 503, title: "Credentials cannot be checked now", retryAfter: 2}
)

// problem is one failure: what its sender is told, and the cause, which only the
// log of this server gets to see.
type problem struct {
	*kind
	detail string
	field  string // of the message, when one is at fault
	limit  int64  // that was exceeded; 0 for none
	unit   string // of limit, when it is a rate
	cause  error

	retryIn             int    // seconds, when they are known; instead of the kind's retryAfter
	rateLimit, policies string // the fields RateLimit and RateLimit-Policy
}

func (p *problem) Error() string {
	if p.cause != nil {
		return p.name + ": " + p.cause.Error()
	}
	return p.name + ": " + p.detail
}

func (p *problem) Unwrap() error { return p.cause }

// logProblem translates the log's errors; what is a 404 depends on the question.
func logProblem(err error, missing *kind) *problem {
	var pending *events.TooManyPendingError
	switch {
	case errors.As(err, &pending):
		return &problem{kind: tooManyPending, cause: err, limit: pending.Limit,
			detail: "So many messages wait for this user already. This one was not accepted; post it again once the user has received some, or some have expired."}
	case errors.Is(err, events.ErrNotFound):
		return &problem{kind: missing, detail: missingDetail(missing), cause: err}
	case errors.Is(err, events.ErrKeyReused):
		return &problem{kind: keyReused, cause: err,
			detail: "This idempotency key was used before with another message. Use a new key for a new message."}
	case errors.Is(err, events.ErrOverloaded):
		return &problem{kind: overloaded, cause: err,
			detail: "More messages arrive than can be written. Nothing was accepted; repeat the request after the time in Retry-After."}
	case errors.Is(err, events.ErrOutcomeUnknown):
		return &problem{kind: outcomeUnknown, cause: err, detail: outcomeUnknownDetail}
	case errors.Is(err, events.ErrUnavailable):
		return &problem{kind: unavailable, cause: err,
			detail: "The event log cannot be reached. Nothing was done; repeat the request after the time in Retry-After."}
	}
	return &problem{kind: internalError, detail: internalDetail, cause: err}
}

const (
	outcomeUnknownDetail = "The message may or may not have been accepted. Repeat the request with the same Idempotency-Key to find out; without a key the message may arrive twice."
	internalDetail       = "Something went wrong here; the operator's log has the cause."
)

func missingDetail(k *kind) string {
	if k == unknownUser {
		return "Nothing was ever posted for this user, and the user never connected."
	}
	return "This user has no message with that seq, or it was deleted after the retention."
}

// append adds the problem document, without its closing brace, so that the
// caller can add members.
func (p *problem) append(b []byte) []byte {
	b = append(b, `{"type":"`...)
	b = append(b, typePrefix...)
	b = append(b, p.name...)
	b = append(b, `","title":"`...)
	b = append(b, p.title...)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	if p.detail != "" {
		b = append(b, `,"detail":`...)
		b = appendString(b, p.detail)
	}
	if p.field != "" {
		b = append(b, `,"field":`...)
		b = appendString(b, p.field)
	}
	if p.limit != 0 {
		b = append(b, `,"limit":`...)
		b = strconv.AppendInt(b, p.limit, 10)
	}
	if p.unit != "" {
		b = append(b, `,"unit":`...)
		b = appendString(b, p.unit)
	}
	return b
}

// headers sets what belongs to the problem beside its document.
func (p *problem) headers(h http.Header) {
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	switch p.kind {
	case unauthenticated:
		h.Set("WWW-Authenticate", `Bearer realm="restante"`)
	case missingScope, userNotAllowed:
		h.Set("WWW-Authenticate", `Bearer realm="restante", error="insufficient_scope"`)
	case upgradeRequired:
		h.Set("Upgrade", "websocket")
		h.Set("Connection", "Upgrade")
		h.Set("Sec-WebSocket-Version", "13")
	case wrongContentType:
		h.Set("Accept-Post", "application/json")
	}
	if p.rateLimit != "" {
		h.Set("RateLimit", p.rateLimit)
		h.Set("RateLimit-Policy", p.policies)
	}
	switch {
	case p.retryIn > 0:
		h.Set("Retry-After", strconv.Itoa(p.retryIn))
	case p.retryAfter > 0:
		// Up to twice as long, so that those who were refused together do not
		// come back together.
		h.Set("Retry-After", strconv.Itoa(p.retryAfter+rand.IntN(p.retryAfter+1)))
	}
	if p.close {
		h.Set("Connection", "close")
	}
}
