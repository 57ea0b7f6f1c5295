package api

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"restante/internal/events"
)

// Answers are appended by hand: the 202 is written more than ten thousand times
// a second, and encoding/json would be a tenth of this package's time there.

func appendTime(b []byte, t time.Time) []byte {
	b = append(b, '"')
	b = events.AppendTime(b, t)
	return append(b, '"')
}

// appendString appends s as a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendStringSlowly(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendStringSlowly(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return append(b, `""`...)
	}
	return append(b, quoted...)
}

// appendReceipt appends what a publisher is told about an accepted message.
func appendReceipt(b []byte, userID string, r *events.Receipt) []byte {
	b = append(b, `{"userId":`...)
	b = appendString(b, userID)
	b = append(b, `,"seq":`...)
	b = strconv.AppendInt(b, r.Seq, 10)
	b = append(b, `,"acceptedAt":`...)
	b = appendTime(b, r.AcceptedAt)
	b = append(b, `,"expiresAt":`...)
	b = appendTime(b, r.ExpiresAt)
	if r.Repeated {
		b = append(b, `,"repeated":true`...)
	}
	return append(b, '}')
}

// location is the path of a message's status. Dots are escaped where they would
// be taken for a directory, everything else that is not unreserved always.
func location(userID string, seq int64) string {
	const prefix, middle = "/v1/users/", "/messages/"
	b := make([]byte, 0, len(prefix)+len(userID)+len(middle)+20)
	b = append(b, prefix...)
	dots := userID == "." || userID == ".."
	for i := range len(userID) {
		switch c := userID[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '~', c == '.' && !dots:
			b = append(b, c)
		default:
			const hex = "0123456789ABCDEF"
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	b = append(b, middle...)
	return string(strconv.AppendInt(b, seq, 10))
}
