package ws

import (
	"errors"
	"strings"
	"testing"
)

func TestParseAck(t *testing.T) {
	t.Parallel()
	for frame, want := range map[string]int64{
		`{"kind":"ack","seq":1}`: 1, `{"kind":"ack","seq":9223372036854775807}`: 9223372036854775807, `{"kind":"ack","seq":0}`: 0,
		` { "seq" : 42, "kind" : "ack" } `: 42, `{"kind":"\u0061ck","seq":7}`: 7,
	} {
		if got, err := parseAck([]byte(frame)); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", frame, got, err, want)
		}
	}
	// What the quick way takes, encoding/json must take too: no sign, no leading
	// zero, nothing behind.
	for _, frame := range []string{
		``, `{}`, `x`, `{"kind":"ack","seq":}`, `{"kind":"ack","seq":-1}`, `{"kind":"ack","seq":+1}`, `{"kind":"ack","seq":01}`,
		`{"kind":"ack","seq":1_0}`, `{"kind":"ack","seq":1.5}`, `{"kind":"ack","seq":1`, `{"kind":"ack","seq":9223372036854775808}`,
		`{"kind":"ack","seq":1,"more":2}`, `{"kind":"hello","seq":1}`, `{"kind":"ack"}`, `{"kind":"ack","seq":"1"}`, `{"kind":"ack","seq":1}}x`[:3],
	} {
		if seq, err := parseAck([]byte(frame)); !errors.Is(err, errNoAck) {
			t.Errorf("%s was taken for %d, %v", frame, seq, err)
		}
	}
}

func TestPlainText(t *testing.T) {
	t.Parallel()
	for payload, want := range map[string]string{
		`"a"`: "a", `""`: "", `"ü 😀"`: "ü 😀", `"a\"b\\"`: `a"b\`, `"\u00e9"`: "é", `{"a":1}`: `{"a":1}`, `1`: "1",
		"\"\xff\"": "\ufffd", `"`: `"`, ``: ``,
	} {
		if got := string(plainText([]byte(payload))); got != want {
			t.Errorf("%q: %q, want %q", payload, got, want)
		}
	}
}

func BenchmarkAck(b *testing.B) {
	for name, frame := range map[string]string{"usual": `{"kind":"ack","seq":123456}`, "spaced": `{"kind": "ack", "seq": 123456}`} {
		b.Run(name, func(b *testing.B) {
			text := []byte(frame)
			b.ReportAllocs()
			for b.Loop() {
				if seq, err := parseAck(text); seq != 123456 || err != nil {
					b.Fatal(seq, err)
				}
			}
		})
	}
}

func BenchmarkPlainText(b *testing.B) {
	for name, text := range map[string]string{"bare": strings.Repeat("m", 254), "escaped": strings.Repeat("m", 252) + `\n`} {
		b.Run(name, func(b *testing.B) {
			payload := []byte(`"` + text + `"`)
			b.ReportAllocs()
			for b.Loop() {
				plainText(payload)
			}
		})
	}
}
