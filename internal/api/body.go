package api

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"restante/internal/events"
)

const (
	// bodyMemory bounds what all bodies take beyond the first 4 KiB of each.
	bodyMemory = 128 << 20
	// longBody is the length from which a body waits for its publisher's share of the
	// memory, and quickBody the one from which it waits for a processor: decoding that
	// much takes 0.2 ms.
	longBody  = 256 << 10
	quickBody = 16 << 10
	// spare lets the read that finds the end of the body have room to read into.
	spare = 512
)

// readBody reads the body of a JSON request into a buffer, which the caller gives
// back whatever the result. A body that begins like an array may be as long as
// MaxBodyBytes; an object has one message in it, and at most as many users as one
// request may have.
//
// The buffer grows with the bytes that have come, whatever Content-Length promises:
// 4,000 requests that announced 256 KiB and sent one byte took 1 GB.
func (a *API) readBody(x *exchange, r *http.Request) (*[]byte, *problem) {
	into := a.buffers.get()
	if !isJSON(r.Header) {
		return into, &problem{kind: wrongContentType, detail: "Send JSON, and say so: Content-Type: application/json."}
	}
	limit := a.cfg.MaxBodyBytes
	if r.ContentLength > limit {
		return into, tooLong(limit)
	}
	if p := a.announced(x, r); p != nil {
		return into, p
	}
	for looked := false; ; {
		b := *into
		n, err := r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		*into = b
		if !looked && n > 0 {
			if first := firstNonSpace(b[len(b)-n:]); first != 0 {
				looked = true
				if first != '[' {
					limit = min(limit, a.maxObject())
				}
			}
		}
		if int64(len(b)) > limit || looked && r.ContentLength > limit {
			return into, tooLong(limit)
		}
		if err == io.EOF {
			return into, nil
		}
		if err != nil {
			return into, a.bodyError(err)
		}
		if cap(b)-len(b) >= spare {
			continue
		}
		if p := a.reserve(x, b); p != nil {
			return into, p
		}
		into = a.buffers.grow(into)
	}
}

// announced takes memory for a long body before any of it is read: while it waits
// for that, it is on the client's side.
func (a *API) announced(x *exchange, r *http.Request) *problem {
	if r.ContentLength <= longBody {
		return nil
	}
	bytes := capacityFor(r.ContentLength) - firstBuffer
	if err := a.bodies.take(r.Context(), x.credential, bytes, a.cfg.BodyTimeout); err != nil {
		return tooManyBodies()
	}
	x.reserved = bytes
	x.limitBodyTime(a.cfg.BodyTimeout) // anew: the wait was not the client's doing
	return nil
}

// reserve takes memory for the buffer b of a body to double, from its publisher's
// share of what there is for all bodies, until the end of the exchange.
func (a *API) reserve(x *exchange, b []byte) *problem {
	more := 2*int64(cap(b)) - firstBuffer - x.reserved
	if more <= 0 {
		return nil // announced
	}
	if !a.bodies.try(x.credential, more) {
		return tooManyBodies()
	}
	x.reserved += more
	return nil
}

// capacityFor is how large the buffer of a body becomes.
func capacityFor(length int64) int64 {
	size := int64(firstBuffer)
	for size < length+spare {
		size *= 2
	}
	return size
}

func tooManyBodies() *problem {
	return &problem{kind: overloaded, detail: "Too many long requests arrive at once. Nothing was accepted; repeat this one after the time in Retry-After."}
}

// decoding waits until a long body may be decoded, and returns what to call then.
// One processor is left to everything else: with both of two busy for 50 ms, the
// answers to other publishers' requests are noticed that much later.
func (a *API) decoding(x *exchange, r *http.Request, body []byte) (done func(), _ *problem) {
	if len(body) <= quickBody {
		return func() {}, nil
	}
	if err := a.decoders.take(r.Context(), x.credential, 1, a.cfg.BodyTimeout); err != nil {
		return nil, tooManyBodies()
	}
	return func() { a.decoders.put(x.credential, 1) }, nil
}

// limitBodyTime gives the client a time to send its body in, also the rest that
// nobody reads: net/http wants to see its end before the connection's next
// request. net/http lifts the deadline where the body ends, so it does not end
// the wait for the commit. Transports without deadlines (recorders) do without.
func (x *exchange) limitBodyTime(timeout time.Duration) {
	_ = http.NewResponseController(x.ResponseWriter).SetReadDeadline(time.Now().Add(timeout))
}

// maxObject is the most that a body with one message in it can be: the message,
// the other fields, and a full list of the longest users.
func (a *API) maxObject() int64 {
	return int64(a.cfg.MaxMessageBytes) + 4<<10 + maxItems*(events.MaxUserIDBytes+4)
}

func tooLong(limit int64) *problem {
	return &problem{kind: bodyTooLarge, limit: limit,
		detail: "The body is longer than the " + strconv.FormatInt(limit, 10) + " bytes that a request of this kind may have."}
}

func (a *API) bodyError(err error) *problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &problem{kind: bodyTimeout, cause: err,
			detail: "The whole body has to arrive within " + a.cfg.BodyTimeout.String() + " of the request's beginning."}
	}
	return &problem{kind: incompleteBody, cause: err,
		detail: "The connection or the chunked encoding ended before the body did. Nothing was accepted."}
}

func firstNonSpace(b []byte) byte {
	for _, c := range b {
		if !isSpace(c) {
			return c
		}
	}
	return 0
}

// isJSON accepts application/json, with no charset or with UTF-8, which is the
// only one JSON has. A missing type is refused: it is what a form in a foreign
// web page can send without asking.
func isJSON(h http.Header) bool {
	values := h["Content-Type"]
	if len(values) != 1 {
		return false
	}
	if values[0] == "application/json" {
		return true
	}
	media, params, err := mime.ParseMediaType(values[0])
	if err != nil || media != "application/json" {
		return false
	}
	charset, given := params["charset"]
	return !given || strings.EqualFold(charset, "utf-8")
}
