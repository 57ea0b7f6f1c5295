package api

import (
	"bytes"
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
	users   []byte         // the raw list of users, when it was given instead of userId
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

// fieldOf returns the field of a quoted name, 0 for one that there is not.
func fieldOf(quoted []byte) field {
	name := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(name, '\\') >= 0 { // spelled with escapes, which is the same name
		plain, _ := text(quoted)
		name = []byte(plain)
	}
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

// parse fills in d from one JSON value, which validJSON has accepted. The
// message's bytes are copied, for the buffer they are in is used again.
func (a *API) parse(d *draft, value []byte, s *shape) *problem {
	if value[0] != '{' {
		return invalid("", "A message is a JSON object with userId and message.")
	}
	d.message.TTL = a.cfg.MaxTTL
	for w := walk(value); ; {
		name, value, ok := w.member()
		if !ok {
			break
		}
		f := fieldOf(name)
		if f&s.fields == 0 {
			plain, _ := text(name)
			return unknown(plain, s)
		}
		if d.seen&f != 0 {
			plain, _ := text(name)
			return &problem{kind: duplicateField, field: plain, detail: "A field may be given only once."}
		}
		d.seen |= f
		if p := a.set(d, f, value, s); p != nil {
			return p
		}
	}
	return d.complete()
}

// set takes over one field.
func (a *API) set(d *draft, f field, value []byte, s *shape) *problem {
	switch f {
	case fieldUserID:
		id, p := userID(value, "userId")
		if p != nil {
			return p
		}
		d.message.UserID = id
	case fieldUsers:
		if value[0] != '[' {
			return invalid("users", "users is a list of user ids.")
		}
		d.users = value
	case fieldMessage:
		return a.setMessage(d, value, s)
	case fieldType:
		t, ok := text(value)
		if !ok || len(t) > maxType || !printable(t) {
			return &problem{kind: invalidMessage, field: "type", limit: maxType,
				detail: "type is a string of at most 128 bytes without control characters; leave it out if there is none."}
		}
		d.message.Type = t
	case fieldTTL:
		seconds, err := strconv.ParseInt(string(value), 10, 64)
		longest := int64(a.cfg.MaxTTL / time.Second)
		if err != nil || seconds < 1 || seconds > longest {
			return &problem{kind: invalidMessage, field: "ttl", limit: longest,
				detail: "ttl is a whole number of seconds from 1 to " + strconv.FormatInt(longest, 10) + "; leave it out for the longest."}
		}
		d.message.TTL = time.Duration(seconds) * time.Second
	case fieldKey:
		key, ok := text(value)
		if !ok || !validKey(key) {
			return invalidKey("idempotencyKey")
		}
		d.message.Key = key
	}
	return nil
}

func (a *API) setMessage(d *draft, value []byte, s *shape) *problem {
	switch {
	case len(value) > a.cfg.MaxMessageBytes:
		return &problem{kind: messageTooLarge, field: "message", limit: int64(a.cfg.MaxMessageBytes),
			detail: "The message is " + strconv.Itoa(len(value)) + " bytes of JSON. Send less, or a reference to it."}
	case value[0] == 'n':
		return invalid("message", "message is null, which is what a forgotten value looks like. Send a value; an empty string is one.")
	case s.stringOnly && value[0] != '"':
		return invalid("message", "On this path message is a string. POST /v1/messages takes any JSON value.")
	}
	d.message.Payload = append(make([]byte, 0, len(value)), value...)
	return nil
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
func userID(value []byte, field string) (string, *problem) {
	id, ok := text(value)
	if !ok {
		return "", invalid(field, "A user id is a string.")
	}
	if err := events.ValidUserID(id); err != nil {
		return "", badUserID(invalidMessage, field, err)
	}
	return id, nil
}

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

func unknown(name string, s *shape) *problem {
	if len(name) > maxShownName {
		end := maxShownName
		for !utf8.RuneStart(name[end]) {
			end--
		}
		name = name[:end] + "…"
	}
	return &problem{kind: unknownField, field: name, detail: "The fields are " + s.list + ", spelled exactly so."}
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
