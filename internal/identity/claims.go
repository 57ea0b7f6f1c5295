package identity

import (
	"encoding/json"
	"strings"
)

// claims of a token whose signature was found good.
type claims map[string]json.RawMessage

func (c claims) has(name string) bool {
	raw, ok := c[name]
	return ok && string(raw) != "null"
}

// text returns a claim that is a string and not empty.
func (c claims) text(name string) (string, bool) {
	var s string
	if !c.has(name) || json.Unmarshal(c[name], &s) != nil {
		return "", false
	}
	return s, s != ""
}

// words returns a claim that is a string of words, or a list of them. The name of a
// claim inside a claim is a path with dots; a claim that has dots in its own name,
// as those of Auth0 rules do, comes first.
func (c claims) words(name string) []string {
	if outer, inner, nested := strings.Cut(name, "."); nested && !c.has(name) {
		var within claims
		if !c.has(outer) || json.Unmarshal(c[outer], &within) != nil {
			return nil
		}
		return within.words(inner)
	}
	if s, ok := c.text(name); ok {
		return strings.Fields(s)
	}
	var list []string
	if !c.has(name) || json.Unmarshal(c[name], &list) != nil {
		return nil
	}
	return list
}

// yes reports whether a claim is true; some issuers write it as a string.
func (c claims) yes(name string) bool {
	raw := string(c[name])
	return raw == "true" || raw == `"true"`
}
