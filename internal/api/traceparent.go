package api

import "net/http"

// Lengths of a version 00 traceparent: version, trace id, parent id, flags.
const (
	traceLength  = 2 + 1 + 32 + 1 + 16 + 1 + 2
	traceVersion = "00"
)

// traceparent returns the request's W3C trace context, or "" when there is none
// that is valid: a broken trace must not stop a message. A later version's is
// carried as version 00, which is all that is known of it here.
// https://www.w3.org/TR/trace-context/#traceparent-header
func traceparent(h http.Header) string {
	values := h["Traceparent"]
	if len(values) != 1 || len(values[0]) < traceLength {
		return ""
	}
	t := values[0]
	version, rest := t[:2], t[traceLength:]
	if !isHex(version) || version == "ff" || t[2] != '-' || t[35] != '-' || t[52] != '-' {
		return ""
	}
	if trace, parent := t[3:35], t[36:52]; !isHex(trace) || !isHex(parent) || allZero(trace) || allZero(parent) || !isHex(t[53:55]) {
		return ""
	}
	if version == traceVersion {
		if rest != "" {
			return ""
		}
		return t
	}
	if rest != "" && rest[0] != '-' {
		return ""
	}
	return traceVersion + t[2:traceLength]
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func allZero(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}
