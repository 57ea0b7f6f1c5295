package events

import (
	"strings"
	"testing"
)

func TestValidUserID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{
		"a", "testUser", "3f0c1c1e-6f7e-4d8e-9a51-0d3b7f5a2c11", "ann@example.com", "a/b?c#d %",
		"Zoë", "名前", "👩‍👩‍👧", " leading space", "\u00a0", strings.Repeat("x", 256), strings.Repeat("é", 128),
	} {
		if err := ValidUserID(id); err != nil {
			t.Errorf("ValidUserID(%q) = %v, want nil", id, err)
		}
	}
	for _, c := range []struct{ id, want string }{
		{"", "empty"},
		{strings.Repeat("x", 257), "257 bytes"},
		{strings.Repeat("é", 129), "258 bytes"},
		{"a\x00b", "U+0000 at byte 1"},
		{"a\nb", "U+000A"},
		{"a\x1b", "U+001B"},
		{"\x7f", "U+007F"},
		{"a\u0080", "U+0080"},
		{"a\u009f", "U+009F"},
		{"a\ufffd", "U+FFFD"},
		{"a\xff", "not valid text at byte 1"},
		{"\xed\xa0\x80", "not valid text"}, // a UTF-16 surrogate, written as if it were UTF-8
	} {
		err := ValidUserID(c.id)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ValidUserID(%q) = %v, want an error with %q", c.id, err, c.want)
		}
	}
}

func FuzzValidUserID(f *testing.F) {
	f.Add("testUser")
	f.Add("a\xffb")
	f.Fuzz(func(t *testing.T, id string) {
		err := ValidUserID(id)
		if err == nil && (len(id) == 0 || len(id) > MaxUserIDBytes || strings.ToValidUTF8(id, "") != id) {
			t.Errorf("ValidUserID(%q) = nil", id)
		}
	})
}
