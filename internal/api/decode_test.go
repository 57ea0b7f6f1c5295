package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

type strictItem struct {
	UserID  *string         `json:"userId"`
	Message json.RawMessage `json:"message"`
	Type    *string         `json:"type"`
	TTL     *int64          `json:"ttl"`
	Key     *string         `json:"idempotencyKey"`
}

// strictDecode is what parse and validJSON have to agree with: encoding/json at
// its strictest, and where that is not strict enough, token by token.
func strictDecode(body []byte, d *strictItem) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(d); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("trailing data")
	}
	return nil
}

var samples = []string{
	`{"userId":"ann","message":1}`,
	`{"userId":"ann","message":{"a":[1,2,{"b":"}\"]"}]},"type":"t","ttl":60}`,
	" { \"message\" : \"\\u00e9\\\\\" , \"user\\u0049d\" : \"bob\" } \n",
	`[{"userId":"ann","message":1},{"userId":"bob","message":[]}]`,
	`{"users":["ann","bob"],"message":"x"}`,
	`{"userId":"ann","message":1,"message":2}`,
	`{"userId":"ann","message":null}`, `{"USERID":"ann","message":1}`,
	`{}`, `[]`, `null`, `"x"`, `7`, ``, ` `, `{`, `{"a"`, `{"a":`, `[[[[`, `{"userId":"\ud800","message":"\ud800"}`,
	"{\"userId\":\"a\xff\",\"message\":1}", `{"\\":1}`, `{"userId":"ann","message":1e999,"ttl":1e2}`,
}

// FuzzWalker: over whatever encoding/json takes for valid, the walker finds the
// same members and elements.
func FuzzWalker(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if valid := validJSON(body) == nil; valid != (json.Valid(body) && utf8.Valid(body)) {
			t.Fatalf("validJSON(%q) says %v", body, valid)
		} else if !valid {
			return
		}
		body = trim(body)
		switch body[0] {
		case '[':
			var want []json.RawMessage
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatal(err)
			}
			n := 0
			for w := walk(body); ; n++ {
				got, ok := w.element()
				if !ok {
					break
				}
				if n >= len(want) || !bytes.Equal(got, want[n]) {
					t.Fatalf("element %d of %q is %q", n, body, got)
				}
			}
			if n != len(want) {
				t.Fatalf("%d elements in %q, want %d", n, body, len(want))
			}
		case '{':
			var want map[string]json.RawMessage
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatal(err)
			}
			got := map[string][]byte{}
			for w := walk(body); ; {
				name, value, ok := w.member()
				if !ok {
					break
				}
				plain, ok := text(name)
				if !ok {
					t.Fatalf("name %q", name)
				}
				got[plain] = value
			}
			if len(got) != len(want) {
				t.Fatalf("%d members in %q, want %d", len(got), body, len(want))
			}
			for name, value := range want {
				if !bytes.Equal(got[name], value) {
					t.Fatalf("member %q of %q is %q, want %q", name, body, got[name], value)
				}
			}
		case '"':
			var want string
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatal(err)
			}
			if got, ok := text(body); !ok || got != want {
				t.Fatalf("text(%q) = %q, want %q", body, got, want)
			}
		}
	})
}

// FuzzParse: whatever parse accepts, encoding/json at its strictest accepts too,
// with the same values; and what it refuses, it refuses for a reason of its own.
func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
	}
	a := &API{cfg: Config{MaxMessageBytes: 1 << 10, MaxTTL: 1 << 40}, shapes: newShapes()}
	f.Fuzz(func(t *testing.T, body []byte) {
		if validJSON(body) != nil {
			return
		}
		var d draft
		p := a.parse(&d, trim(body), &a.shapes.item)
		var want strictItem
		err := strictDecode(body, &want)
		if p != nil {
			return
		}
		switch {
		case err != nil:
			t.Fatalf("accepted %q, encoding/json says %v", body, err)
		case want.UserID == nil || d.message.UserID != *want.UserID:
			t.Fatalf("user %q of %q", d.message.UserID, body)
		case !bytes.Equal(d.message.Payload, want.Message) || string(want.Message) == "null":
			t.Fatalf("message %q of %q", d.message.Payload, body)
		case want.Type != nil && d.message.Type != *want.Type:
			t.Fatalf("type %q of %q", d.message.Type, body)
		case want.TTL != nil && int64(d.message.TTL.Seconds()) != *want.TTL:
			t.Fatalf("ttl %v of %q", d.message.TTL, body)
		case want.Key != nil && d.message.Key != *want.Key:
			t.Fatalf("key %q of %q", d.message.Key, body)
		}
	})
}

// BenchmarkDecode compares the walker with encoding/json: why there is a walker.
func BenchmarkDecode(b *testing.B) {
	body := []byte(`{"userId":"user-0123456789","message":"` + strings.Repeat("m", 254) + `"}`)
	a := &API{cfg: Config{MaxMessageBytes: 1 << 10, MaxTTL: 1 << 40}, shapes: newShapes()}
	b.Run("walker", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var d draft
			if p := validJSON(body); p != nil {
				b.Fatal(p)
			}
			if p := a.parse(&d, trim(body), &a.shapes.single); p != nil {
				b.Fatal(p)
			}
		}
	})
	b.Run("encoding/json", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var d strictItem
			if !utf8.Valid(body) {
				b.Fatal("not UTF-8")
			}
			if err := strictDecode(body, &d); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	const valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct{ sent, want string }{
		{valid, valid},
		{"cc" + valid[2:], valid},
		{"cc" + valid[2:] + "-what-the-future-will-be", valid},
		{"cc" + valid[2:] + ".what", ""},
		{valid + "-extra", ""},
		{"ff" + valid[2:], ""},
		{strings.ToUpper(valid), ""},
		{valid[:54], ""},
		{"00-00000000000000000000000000000000-b7ad6b7169203331-01", ""},
		{"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", ""},
		{strings.Replace(valid, "-", "_", 1), ""},
		{strings.Replace(valid, "af", "ag", 1), ""},
		{"", ""},
	} {
		if got := traceparent(map[string][]string{"Traceparent": {c.sent}}); got != c.want {
			t.Errorf("traceparent %q = %q, want %q", c.sent, got, c.want)
		}
	}
	if got := traceparent(map[string][]string{"Traceparent": {valid, valid}}); got != "" {
		t.Errorf("two headers: %q", got)
	}
}

func TestLocation(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ user, want string }{
		{"ann", "/v1/users/ann/messages/7"},
		{"a.b-c_d~e", "/v1/users/a.b-c_d~e/messages/7"},
		{".", "/v1/users/%2E/messages/7"},
		{"..", "/v1/users/%2E%2E/messages/7"},
		{"a/b?c#d%e f", "/v1/users/a%2Fb%3Fc%23d%25e%20f/messages/7"},
		{"é", "/v1/users/%C3%A9/messages/7"},
	} {
		if got := location(c.user, 7); got != c.want {
			t.Errorf("location(%q) = %q, want %q", c.user, got, c.want)
		}
	}
}
