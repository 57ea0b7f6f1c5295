package api

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"restante/internal/events"
)

// Limits of what a publisher may send, beside the configured ones.
const (
	maxItems = 1000 // messages, or users, of one request
	maxType  = 128  // bytes
	maxKey   = 255  // characters of an idempotency key
)

// draft is one object of a request's body as its publisher wrote it.
type draft struct {
	message events.Message // all but Publisher and Traceparent
	users   []item         // when a list of users was given instead of userId
	seen    field
}

// field is a set of field names.
type field uint8

const (
	fieldUserID field = 1 << iota
	fieldUsers
	fieldMessage
	fieldType
	fieldTTL
	fieldKey
)

// fieldOf returns the field of a name, 0 for one that there is not.
func fieldOf(name []byte) field {
	switch string(name) {
	case "userId":
		return fieldUserID
	case "users":
		return fieldUsers
	case "message":
		return fieldMessage
	case "type":
		return fieldType
	case "ttl":
		return fieldTTL
	case "idempotencyKey":
		return fieldKey
	}
	return 0
}

// shape says which fields one kind of request has.
type shape struct {
	fields     field
	stringOnly bool   // message has to be a string, as in the seed
	list       string // the fields, for those who sent another
}

// shapes are the kinds of request body.
type shapes struct {
	single shape // of POST /v1/messages
	item   shape // of an array there
	seed   shape // of POST /message
}

func newShapes() shapes {
	const message = fieldMessage | fieldType | fieldTTL | fieldKey
	return shapes{
		single: shape{fields: fieldUserID | fieldUsers | message, list: "userId or users, message, type, ttl and idempotencyKey"},
		item:   shape{fields: fieldUserID | message, list: "userId, message, type, ttl and idempotencyKey"},
		seed:   shape{fields: fieldUserID | fieldMessage, list: "userId and message", stringOnly: true},
	}
}

// parse fills in d from the next value of in. The message's bytes are copied, for
// the buffer they are in is used again. After a problem the reader stands somewhere
// inside the value; an error says that the body is not JSON.
func (a *API) parse(d *draft, in *reader, s *shape) (*problem, error) {
	if in.kind() != '{' {
		_, err := in.value()
		return invalid("", "A message is a JSON object with userId and message."), err
	}
	if err := in.token(); err != nil {
		return nil, err
	}
	d.message.TTL = a.cfg.MaxTTL
	for in.kind() != '}' {
		quoted, err := in.value()
		if err != nil {
			return nil, err
		}
		name := in.name(quoted)
		f := fieldOf(name)
		if f&s.fields == 0 {
			return &problem{kind: unknownField, field: shown(name), detail: "The fields are " + s.list + ", spelled exactly so."}, nil
		}
		if d.seen&f != 0 {
			return &problem{kind: duplicateField, field: string(name), detail: "A field may be given only once."}, nil
		}
		d.seen |= f
		if p, err := a.set(d, f, in, s); p != nil || err != nil {
			return p, err
		}
	}
	if err := in.token(); err != nil {
		return nil, err
	}
	return d.complete(), nil
}

// set reads one field's value.
func (a *API) set(d *draft, f field, in *reader, s *shape) (*problem, error) {
	switch f {
	case fieldUsers:
		return d.setUsers(in)
	case fieldMessage:
		return a.setMessage(d, in, s)
	}
	value, err := in.value()
	if err != nil {
		return nil, err
	}
	switch f {
	case fieldUserID:
		id, p := in.userID(value, "userId")
		if p != nil {
			return p, nil
		}
		d.message.UserID = id
	case fieldType:
		t, ok := in.text(value, maxType)
		if !ok || !printable(t) {
			return &problem{kind: invalidMessage, field: "type", limit: maxType,
				detail: "type is a string of at most 128 bytes without control characters; leave it out if there is none."}, nil
		}
		d.message.Type = t
	case fieldTTL:
		longest := int64(a.cfg.MaxTTL / time.Second)
		seconds, ok := wholeNumber(value)
		if !ok || seconds < 1 || seconds > longest {
			return &problem{kind: invalidMessage, field: "ttl", limit: longest,
				detail: "ttl is a whole number of seconds from 1 to " + strconv.FormatInt(longest, 10) + "; leave it out for the longest."}, nil
		}
		d.message.TTL = time.Duration(seconds) * time.Second
	case fieldKey:
		key, ok := in.text(value, maxKey)
		if !ok || !validKey(key) {
			return invalidKey("idempotencyKey"), nil
		}
		d.message.Key = key
	}
	return nil, nil
}

// wholeNumber is the number that a JSON value is, if it is written without a
// fraction or exponent.
func wholeNumber(value []byte) (int64, bool) {
	if len(value) > len("-9223372036854775808") {
		return 0, false
	}
	n, err := strconv.ParseInt(string(value), 10, 64)
	return n, err == nil
}

func (a *API) setMessage(d *draft, in *reader, s *shape) (*problem, error) {
	value, err := in.bounded(a.cfg.MaxMessageBytes, a.cfg.MaxMessageDepth)
	switch {
	case err == errTooLong:
		return &problem{kind: messageTooLarge, field: "message", limit: int64(a.cfg.MaxMessageBytes),
			detail: "The message is longer than " + strconv.Itoa(a.cfg.MaxMessageBytes) + " bytes of JSON. Send less, or a reference to it."}, nil
	case err == errTooDeep:
		return &problem{kind: messageTooDeep, field: "message", limit: int64(a.cfg.MaxMessageDepth),
			detail: "The message has arrays or objects inside each other more than " + strconv.Itoa(a.cfg.MaxMessageDepth) + " levels deep. Send it flatter, or as a string."}, nil
	case err != nil:
		return nil, err
	case value[0] == 'n':
		return invalid("message", "message is null, which is what a forgotten value looks like. Send a value; an empty string is one."), nil
	case s.stringOnly && value[0] != '"':
		return invalid("message", "On this path message is a string. POST /v1/messages takes any JSON value."), nil
	}
	d.message.Payload = bytes.Clone(value)
	return nil, nil
}

// complete reports what is missing, or too much.
func (d *draft) complete() *problem {
	switch {
	case d.seen&fieldUserID == 0 && d.seen&fieldUsers == 0:
		return invalid("userId", "userId is missing: say whom the message is for.")
	case d.seen&fieldUserID != 0 && d.seen&fieldUsers != 0:
		return invalid("users", "Give either userId or users, not both.")
	case d.seen&fieldMessage == 0:
		return invalid("message", "message is missing: any JSON value but null.")
	}
	return nil
}

func invalid(field, detail string) *problem {
	return &problem{kind: invalidMessage, field: field, detail: detail}
}

// userID reads a user id. The sentence about a bad one is the rule's own.
func (r *reader) userID(value []byte, field string) (string, *problem) {
	if value[0] != '"' {
		return "", invalid(field, "A user id is a string.")
	}
	id, ok := r.text(value, events.MaxUserIDBytes)
	if !ok {
		return "", badUserID(invalidMessage, field, errLongUserID)
	}
	if err := events.ValidUserID(id); err != nil {
		return "", badUserID(invalidMessage, field, err)
	}
	return id, nil
}

var errLongUserID = errors.New("the user id is longer than " + strconv.Itoa(events.MaxUserIDBytes) + " bytes")

func badUserID(k *kind, field string, err error) *problem {
	sentence := err.Error()
	return &problem{kind: k, field: field, limit: events.MaxUserIDBytes, detail: strings.ToUpper(sentence[:1]) + sentence[1:] + "."}
}

func invalidKey(field string) *problem {
	return &problem{kind: badIdempotencyKey, field: field, limit: maxKey,
		detail: "An idempotency key is 1 to 255 visible ASCII characters."}
}

// maxShownName bounds how much of an unknown field's name is sent back.
const maxShownName = 64

func shown(name []byte) string {
	if len(name) <= maxShownName {
		return string(name)
	}
	end := maxShownName
	for !utf8.RuneStart(name[end]) {
		end--
	}
	return string(name[:end]) + "…"
}

// printable reports valid UTF-8 without control characters (C0, DEL, C1) and
// without U+FFFD.
func printable(s string) bool {
	for _, r := range s {
		if r < 0x20 || 0x7f <= r && r <= 0x9f || r == utf8.RuneError {
			return false
		}
	}
	return true
}

// validKey says what may be an idempotency key.
func validKey(key string) bool {
	if len(key) < 1 || len(key) > maxKey {
		return false
	}
	for i := range len(key) {
		if key[i] < '!' || key[i] > '~' {
			return false
		}
	}
	return true
}
