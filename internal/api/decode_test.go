package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/events"
)

type strictItem struct {
	UserID  *string         `json:"userId"`
	Message json.RawMessage `json:"message"`
	Type    *string         `json:"type"`
	TTL     *int64          `json:"ttl"`
	Key     *string         `json:"idempotencyKey"`
}

// strictDecode is what the reader has to agree with: encoding/json at
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

// testAPI is an API that only reads.
func testAPI(config Config) *API {
	if config.MaxMessageBytes == 0 {
		config.MaxMessageBytes = 1 << 10
	}
	config.MaxTTL = 1 << 40
	return New(config, Deps{Metrics: prometheus.NewRegistry()})
}

// drafts reads a body as POST /v1/messages does, up to the log.
func (a *API) drafts(in *reader, body []byte) ([]events.Message, *problem) {
	if p := in.open(body); p != nil {
		return nil, p
	}
	if in.kind() == '[' {
		g, p := a.readArray(in, publisher{}, events.Message{})
		if p != nil {
			return nil, p
		}
		return g.messages, nil
	}
	var d draft
	if p := a.readOne(&d, in, &a.shapes.single); p != nil {
		return nil, p
	}
	if d.users == nil {
		return []events.Message{d.message}, nil
	}
	g, p := a.forUsers(&d, publisher{})
	if p != nil {
		return nil, p
	}
	return g.messages, nil
}

// FuzzReader: the reader takes for JSON what encoding/json does, finds the same
// members and elements, and looks at no byte twice.
func FuzzReader(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var in reader
		if p := in.open(body); p != nil {
			if utf8.Valid(body) {
				t.Fatalf("open(%q) says %v", body, p)
			}
			return
		}
		parts, err := readParts(&in)
		if valid := err == nil; valid != json.Valid(body) {
			t.Fatalf("%q: %v, encoding/json says %t", body, err, !valid)
		}
		if in.looked > int64(len(body)) {
			t.Fatalf("%q: looked at %d bytes", body, in.looked)
		}
		if err != nil {
			if p := in.malformed(err); p.kind != malformedJSON {
				t.Fatal(p)
			}
			return
		}
		body = bytes.TrimSpace(body)
		switch body[0] {
		case '[':
			var want []json.RawMessage
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatal(err)
			}
			if len(parts) != len(want) {
				t.Fatalf("%d elements in %q, want %d", len(parts), body, len(want))
			}
			for i := range want {
				if !bytes.Equal(parts[i].value, want[i]) {
					t.Fatalf("element %d of %q is %q", i, body, parts[i].value)
				}
			}
		case '{':
			var want map[string]json.RawMessage
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatal(err)
			}
			got := map[string][]byte{}
			for _, part := range parts {
				name, ok := in.text(part.name, len(body))
				if !ok {
					t.Fatalf("name %q", part.name)
				}
				got[name] = part.value
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
			if got, ok := in.text(body, len(body)); !ok || got != want {
				t.Fatalf("text(%q) = %q, want %q", body, got, want)
			}
		}
	})
}

type part struct{ name, value []byte }

// readParts reads the members or elements of a body, or the body.
func readParts(in *reader) (parts []part, err error) {
	open := in.kind()
	if open != '{' && open != '[' {
		if _, err := in.value(); err != nil {
			return nil, err
		}
		return nil, in.end()
	}
	if err := in.token(); err != nil {
		return nil, err
	}
	for in.kind() != '}' && in.kind() != ']' {
		var p part
		if open == '{' {
			if p.name, err = in.value(); err != nil {
				return nil, err
			}
		}
		if p.value, err = in.bounded(1<<30, 1<<30); err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	if err := in.token(); err != nil {
		return nil, err
	}
	return parts, in.end()
}

// FuzzParse: whatever is accepted, encoding/json at its strictest accepts too, with
// the same values; and what it refuses, it refuses for a reason of its own. No byte
// is looked at more than twice: once to find a value, once to unquote it.
func FuzzParse(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s))
	}
	a := testAPI(Config{})
	f.Fuzz(func(t *testing.T, body []byte) {
		var in reader
		messages, p := a.drafts(&in, body)
		if in.looked > 2*int64(len(body)) {
			t.Fatalf("%q: looked at %d bytes", body, in.looked)
		}
		if p != nil || bytes.TrimSpace(body)[0] != '{' || len(messages) != 1 || bytes.Contains(body, []byte(`"users"`)) {
			return
		}
		var want strictItem
		err := strictDecode(body, &want)
		m := messages[0]
		switch {
		case err != nil:
			t.Fatalf("accepted %q, encoding/json says %v", body, err)
		case want.UserID == nil || m.UserID != *want.UserID:
			t.Fatalf("user %q of %q", m.UserID, body)
		case !bytes.Equal(m.Payload, want.Message) || string(want.Message) == "null":
			t.Fatalf("message %q of %q", m.Payload, body)
		case want.Type != nil && m.Type != *want.Type:
			t.Fatalf("type %q of %q", m.Type, body)
		case want.TTL != nil && int64(m.TTL.Seconds()) != *want.TTL:
			t.Fatalf("ttl %v of %q", m.TTL, body)
		case want.Key != nil && m.Key != *want.Key:
			t.Fatalf("key %q of %q", m.Key, body)
		}
	})
}

// A reader stops at the first limit that is exceeded: what comes after is not
// looked at.
func TestLimitsEndTheReading(t *testing.T) {
	t.Parallel()
	a := testAPI(Config{})
	rest := strings.Repeat("[", 1<<20)
	for _, c := range []struct {
		name, body string
		kind       *kind
	}{
		{"items", "[" + strings.Repeat("1,", maxItems) + rest, tooManyMessages},
		{"users", `{"message":1,"users":[` + strings.Repeat("1,", maxItems) + rest, tooManyMessages},
		{"depth", `{"userId":"ann","message":` + rest, messageTooDeep},
		{"bytes", `{"userId":"ann","message":[` + strings.Repeat("1,", 1<<10) + rest, messageTooLarge},
		{"name", `{"name":` + rest, unknownField},
		{"user", `{"userId":"",` + rest, invalidMessage},
	} {
		var in reader
		_, p := a.drafts(&in, []byte(c.body))
		if p == nil || p.kind != c.kind {
			t.Errorf("%s: %v, want %s", c.name, p, c.kind.name)
		}
		if in.looked > 8<<10 {
			t.Errorf("%s: looked at %d bytes of %d", c.name, in.looked, len(c.body))
		}
	}
}

// growing are bodies of about n bytes that have cost, or could cost, more than n.
var growing = map[string]func(n int) string{
	"escapes":           func(n int) string { return `[{"userId":"q","message":"` + strings.Repeat(`\n`, n/2) + `"}]` },
	"escapes in a user": func(n int) string { return `{"userId":"` + strings.Repeat(`\u0061`, n/6) + `","message":1}` },
	"escapes in a name": func(n int) string { return `{"` + strings.Repeat(`\"`, n/2) + `":1}` },
	"quotes":            func(n int) string { return `[{"userId":"q","message":[` + strings.Repeat(`"",`, n/3) + `1]}]` },
	"white space":       func(n int) string { return `[{"userId":"q",` + strings.Repeat(" ", n) + `"message":1}]` },
	"members":           func(n int) string { return `[{"userId":"q","message":{` + strings.Repeat(`"a":1,`, n/6) + `"b":1}}]` },
	"long names": func(n int) string {
		return `[{"userId":"q","message":` + strings.Repeat(`{"`+strings.Repeat("n", n/60)+`":`, 60) + "1" + strings.Repeat("}", 60) + "}]"
	},
	"digits":         func(n int) string { return `{"userId":"q","message":1,"ttl":` + strings.Repeat("1", n) + `}` },
	"shallow arrays": func(n int) string { return `[{"userId":"q","message":[` + strings.Repeat("[],", n/3) + `1]}]` },
	"deep": func(n int) string {
		return `[{"userId":"q","message":` + strings.Repeat("[", n/2) + strings.Repeat("]", n/2) + `}]`
	},
	"deep elsewhere": func(n int) string {
		return `[{"x":` + strings.Repeat(strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+",", n/18001+1) + `}]`
	},
	"deep names, cut off": func(n int) string { return `[{"x":` + strings.Repeat(`{"`+strings.Repeat("n", n/9000)+`":`, 9000) },
	"bad items": func(n int) string {
		return "[" + strings.Repeat(`{"x":"`+strings.Repeat(`\\`, n/1800)+`"},`, 900) + "1]"
	},
	"not UTF-8": func(n int) string { return strings.Repeat("é", n/2) + "\xff" },
}

// TestLinear: a body 32 times as long takes about 32 times as long. What is quadratic
// takes 1,024 times; 200 leaves room for a busy machine. The walker that was here
// before took 1,000.
func TestLinear(t *testing.T) {
	const short, long = 16 << 10, 512 << 10
	a := testAPI(Config{MaxMessageBytes: 1 << 20})
	fastest := func(body []byte) time.Duration {
		best := time.Hour
		for range 5 {
			in := new(reader)
			start := time.Now()
			_, _ = a.drafts(in, body)
			best = min(best, time.Since(start))
		}
		return best
	}
	for name, body := range growing {
		brief, lengthy := fastest([]byte(body(short))), fastest([]byte(body(long)))
		if lengthy > 200*max(brief, 10*time.Microsecond) {
			t.Errorf("%s: %v for 16 KiB, %v for 512 KiB", name, brief, lengthy)
		}
	}
}

// BenchmarkDecode compares the reader with encoding/json.
func BenchmarkDecode(b *testing.B) {
	const user = `{"userId":"user-0123456789","message":`
	small := user + `"` + strings.Repeat("m", 254) + `"}`
	a := testAPI(Config{MaxMessageBytes: 64 << 10})
	for _, bench := range []struct{ name, body string }{
		{"string256", small},
		{"object", user + `{"kind":"task.done","task":"2f0c","result":{"ok":true,"rows":120,"names":["a","b","c"],"note":"a sentence of some length, as a result has"}},"type":"task.done","ttl":60}`},
		{"array100", "[" + strings.Repeat(small+",", 99) + small + "]"},
		{"escapes", user + `"` + strings.Repeat(`\n`, 30_000) + `"}`},
		{"unicode", user + `"` + strings.Repeat("ж", 30_000) + `"}`},
		{"deep", user + "[" + strings.Repeat(strings.Repeat("[", 60)+strings.Repeat("]", 60)+",", 500) + "1]}"},
		{"members", user + "{" + strings.Repeat(`"a":1,`, 10_000) + `"b":2}}`},
	} {
		body := []byte(bench.body)
		b.Run(bench.name+"/reader", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			in := new(reader)
			for b.Loop() {
				if _, p := a.drafts(in, body); p != nil {
					b.Fatal(p)
				}
			}
		})
		b.Run(bench.name+"/encoding-json", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if !utf8.Valid(body) {
					b.Fatal("not UTF-8")
				}
				var d strictItem
				var list []strictItem
				into := any(&d)
				if body[0] == '[' {
					into = &list
				}
				decoder := json.NewDecoder(bytes.NewReader(body))
				decoder.DisallowUnknownFields()
				if err := decoder.Decode(into); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
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
