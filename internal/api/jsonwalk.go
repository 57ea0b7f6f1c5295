package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// validJSON reports what keeps body from being one JSON text in UTF-8.
// encoding/json alone would replace invalid UTF-8 silently.
func validJSON(body []byte) *problem {
	if !utf8.Valid(body) {
		at := 0
		for at < len(body) {
			r, size := utf8.DecodeRune(body[at:])
			if r == utf8.RuneError && size <= 1 {
				break
			}
			at += size
		}
		return &problem{kind: invalidUTF8, detail: "JSON is UTF-8; the byte at offset " + strconv.Itoa(at) + " is not."}
	}
	if json.Valid(body) {
		return nil
	}
	// Only now the slow way, for a sentence that helps. It speaks about the
	// sender's own bytes, so it may be shown.
	detail := "The body has to be one JSON text."
	var syntax *json.SyntaxError
	var ignored json.RawMessage
	if err := json.Unmarshal(body, &ignored); errors.As(err, &syntax) {
		detail = "The body has to be one JSON text: " + syntax.Error() + ", after " + strconv.FormatInt(syntax.Offset, 10) + " bytes."
	}
	return &problem{kind: malformedJSON, detail: detail}
}

// walker goes through the members of one JSON object, or the elements of one
// array, without allocating. It may only be used on what validJSON has accepted:
// that is why it can be this small. (A strict decoder of encoding/json takes half
// as long again and four times the allocations, see BenchmarkDecode, and still
// matches names in any case and takes the last of two members of one name.)
type walker struct {
	data []byte
	at   int
}

// walk begins with the value that starts at data[0].
func walk(data []byte) walker { return walker{data: data, at: 1} }

// member returns the next member of an object, its name still quoted.
func (w *walker) member() (name, value []byte, ok bool) {
	if !w.next() {
		return nil, nil, false
	}
	name = w.value()
	w.space()
	w.at++ // the colon
	w.space()
	return name, w.value(), true
}

// element returns the next element of an array.
func (w *walker) element() (value []byte, ok bool) {
	if !w.next() {
		return nil, false
	}
	return w.value(), true
}

// next goes to the next member or element.
func (w *walker) next() bool {
	w.space()
	if w.data[w.at] == ',' {
		w.at++
		w.space()
	}
	return w.data[w.at] != '}' && w.data[w.at] != ']'
}

func (w *walker) space() {
	for isSpace(w.data[w.at]) {
		w.at++
	}
}

// value returns the value that starts here and goes behind it.
func (w *walker) value() []byte {
	start, depth := w.at, 0
	for {
		switch w.data[w.at] {
		case '"':
			w.skipString()
		case '{', '[':
			depth++
			w.at++
		case '}', ']':
			depth--
			w.at++
		case ' ', '\t', '\n', '\r', ',', ':':
			w.at++ // only inside an object or array
			continue
		default:
			w.skipWord()
		}
		if depth == 0 {
			return w.data[start:w.at]
		}
	}
}

func (w *walker) skipString() {
	for w.at++; ; {
		end := w.at + bytes.IndexByte(w.data[w.at:], '"')
		escape := bytes.IndexByte(w.data[w.at:end], '\\')
		if escape < 0 {
			w.at = end + 1
			return
		}
		w.at += escape + 2
	}
}

// skipWord goes behind a number, true, false or null.
func (w *walker) skipWord() {
	for ; w.at < len(w.data); w.at++ {
		switch w.data[w.at] {
		case ',', ':', '}', ']', ' ', '\t', '\n', '\r':
			return
		}
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// trim returns the value of a valid JSON text without the white space around it.
func trim(body []byte) []byte {
	for len(body) > 0 && isSpace(body[0]) {
		body = body[1:]
	}
	for len(body) > 0 && isSpace(body[len(body)-1]) {
		body = body[:len(body)-1]
	}
	return body
}

// text returns the Go string of a JSON string; ok is false for any other value.
func text(value []byte) (s string, ok bool) {
	if value[0] != '"' {
		return "", false
	}
	inner := value[1 : len(value)-1]
	for _, c := range inner {
		if c == '\\' {
			// Lone surrogates become U+FFFD here, which no name of ours may contain.
			err := json.Unmarshal(value, &s)
			return s, err == nil
		}
	}
	return string(inner), true
}
