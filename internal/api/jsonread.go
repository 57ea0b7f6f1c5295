package api

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"sync"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// reader reads the JSON of one body, in one pass and without allocating. Values
// are slices of the body.
//
// The tokenizer is jsontext, which is to become Go's encoding/json/jsontext.
// json.Valid and a hand-written walk took 3.2 times as long for a message of 256
// bytes (1.2 µs instead of 0.37), 4.8 times for an array of a hundred, 1.1 times for
// 10,000 small members, and 150 times for 30,000 escapes, where it was quadratic.
type reader struct {
	body    []byte
	source  bytes.Buffer // jsontext reads a bytes.Buffer in place
	decoder jsontext.Decoder
	looked  int64 // bytes of all values that were read or unquoted; for the fuzz targets
}

// readers recycles readers, whose decoder is 500 bytes.
type readers struct{ pool sync.Pool }

func (p *readers) get() *reader {
	if r, ok := p.pool.Get().(*reader); ok {
		return r
	}
	return new(reader)
}

func (p *readers) put(r *reader) {
	r.body, r.source, r.looked = nil, bytes.Buffer{}, 0
	r.decoder.Reset(&r.source) // forgets the body
	p.pool.Put(r)
}

// open begins at the start of body, which has to be UTF-8 as a whole. Then the
// decoder need not check that, and takes the escape of half a surrogate pair in a
// message for what it is: text that JSON allows.
func (r *reader) open(body []byte) *problem {
	if !utf8.Valid(body) {
		return notUTF8(body)
	}
	r.body, r.source = body, *bytes.NewBuffer(body)
	r.decoder.Reset(&r.source, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	return nil
}

func notUTF8(body []byte) *problem {
	at := 0
	for {
		r, size := utf8.DecodeRune(body[at:])
		if r == utf8.RuneError && size <= 1 {
			return &problem{kind: invalidUTF8, detail: "JSON is UTF-8; the byte at offset " + strconv.Itoa(at) + " is not."}
		}
		at += size
	}
}

// kind is the first character of the next value, or of the end of the array or
// object; 0 where the next call fails.
func (r *reader) kind() jsontext.Kind { return r.decoder.PeekKind() }

func (r *reader) offset() int { return int(r.decoder.InputOffset()) }

func (r *reader) depth() int { return r.decoder.StackDepth() }

// token goes past a brace, a bracket or a single value.
func (r *reader) token() error {
	before := r.offset()
	_, err := r.decoder.ReadToken()
	r.looked += int64(r.offset() - before)
	return err
}

// value returns the next value, or the next member's quoted name.
func (r *reader) value() ([]byte, error) {
	value, err := r.decoder.ReadValue()
	r.looked += int64(len(value))
	return value, err
}

// Reasons why bounded stops reading.
var (
	errTooLong = errors.New("value too long")
	errTooDeep = errors.New("value nested too deep")
)

// bounded returns the next value, unless it is longer or deeper than allowed: then
// it stops where it sees that and returns errTooLong or errTooDeep.
func (r *reader) bounded(longest, deepest int) ([]byte, error) {
	if kind := r.kind(); kind != '{' && kind != '[' {
		value, err := r.value()
		if len(value) > longest {
			err = errTooLong
		}
		return value, err
	}
	outside, start := r.depth(), -1
	for {
		if err := r.token(); err != nil {
			return nil, err
		}
		if start < 0 {
			start = r.offset() - 1
		}
		switch depth := r.depth() - outside; {
		case r.offset()-start > longest:
			return nil, errTooLong
		case depth > deepest:
			return nil, errTooDeep
		case depth == 0:
			return r.body[start:r.offset()], nil
		}
	}
}

// skipTo goes on until depth is reached, past whatever is left inside.
func (r *reader) skipTo(depth int) error {
	for r.depth() > depth {
		if err := r.token(); err != nil {
			return err
		}
	}
	return nil
}

// end reports whatever follows the body's one value.
func (r *reader) end() error {
	err := r.token()
	switch err {
	case io.EOF:
		return nil
	case nil:
		return errTrailing
	}
	return err
}

var errTrailing = errors.New("something follows the first value")

// malformed says why the body is not one JSON text. It speaks about the sender's
// own bytes, so it may be shown.
func (r *reader) malformed(err error) *problem {
	at := r.offset()
	var syntax *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntax):
		at = int(syntax.ByteOffset)
		if syntax.Err != nil {
			err = syntax.Err
		}
	case err == io.EOF:
		err = errors.New("the body is empty")
	}
	return &problem{kind: malformedJSON,
		detail: "The body has to be one JSON text: " + err.Error() + ", after " + strconv.Itoa(at) + " bytes."}
}

// name returns a member's name without its quotes and, as it is the same name when
// spelled with escapes, without those. A name too long for any field stays as it is.
func (r *reader) name(quoted []byte) []byte {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 || len(inner) > escaped*maxShownName {
		return inner
	}
	r.looked += int64(len(inner))
	plain, _ := jsontext.AppendUnquote(nil, quoted)
	return plain
}

// escaped is how much longer a character can be in JSON than in UTF-8: \u0041.
const escaped = 6

// text returns the Go string of a JSON string of at most longest bytes; ok is false
// for anything else. Half a surrogate pair becomes U+FFFD, which no name of ours
// may contain.
func (r *reader) text(value []byte, longest int) (s string, ok bool) {
	if value[0] != '"' || len(value) > escaped*longest+2 {
		return "", false
	}
	r.looked += int64(len(value))
	inner := value[1 : len(value)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), len(inner) <= longest
	}
	plain, _ := jsontext.AppendUnquote(nil, value)
	return string(plain), len(plain) <= longest
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }
