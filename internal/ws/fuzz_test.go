package ws

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"

	"restante/internal/events"
	"restante/internal/hub"
)

// What is taken for an ack is one: whoever reads the frame as JSON finds the same
// seq in it, and nothing behind it.
func FuzzParseAck(f *testing.F) {
	for _, frame := range []string{
		`{"kind":"ack","seq":1}`, `{"kind":"ack","seq":0}`, `{"kind":"ack","seq":9223372036854775807}`, `{"kind":"ack","seq":9223372036854775808}`,
		`{"kind":"ack","seq":01}`, `{"kind":"ack","seq":1}}`, `{"kind":"ack","seq":1e3}`, `{"kind":"ack","seq":+1}`, ` {"seq":2,"kind":"ack"} `,
		`{"kind":"ack","seq":1,"seq":2}`, `{"KIND":"ack","Seq":2}`, `{}`, `null`, `[]`, "", "\x00", `{"kind":"ack","seq":1`, `{"kind":"ack","seq":1_0}`,
	} {
		f.Add([]byte(frame))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		seq, err := parseAck(frame)
		if err != nil {
			if !errors.Is(err, errNoAck) || !utf8.ValidString(truncate(err.Error())) {
				t.Errorf("%q: %v", frame, err)
			}
			return
		}
		var ack struct {
			Kind string
			Seq  *int64
		}
		if err := json.Unmarshal(frame, &ack); err != nil || ack.Kind != "ack" || ack.Seq == nil || *ack.Seq != seq || seq < 0 {
			t.Errorf("%q is taken for the ack of %d: %v", frame, seq, err)
		}
	})
}

// A plain text frame is the string's text, or the value's bytes; text either way.
func FuzzPlainText(f *testing.F) {
	for _, payload := range []string{`"x"`, `"\""`, `"\u0000"`, `"\ud800"`, `"ü"`, `""`, `{"a":"b"}`, `1`, `"`, `"a`, `"a" `, "\"\xff\""} {
		f.Add([]byte(payload))
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		before := bytes.Clone(payload)
		got := plainText(payload)
		if !bytes.Equal(payload, before) {
			t.Errorf("%q was changed", before)
		}
		if !json.Valid(payload) || !utf8.Valid(payload) {
			return // the log holds nothing like it
		}
		if !utf8.Valid(got) {
			t.Errorf("%q: %q is not text", payload, got)
		}
		var text string
		if json.Unmarshal(payload, &text) == nil && payload[0] == '"' {
			if string(got) != text {
				t.Errorf("%q: %q, want %q", payload, got, text)
			}
		} else if !bytes.Equal(got, payload) {
			t.Errorf("%q: %q", payload, got)
		}
	})
}

func FuzzTruncate(f *testing.F) {
	f.Add(strings.Repeat("x", 122) + "ü")
	f.Fuzz(func(t *testing.T, reason string) {
		if got := truncate(reason); len(got) > 123 || !utf8.ValidString(got) && utf8.ValidString(reason) {
			t.Errorf("%q: %q", reason, got)
		}
	})
}

// Frames that are put together here are read by a library that knows nothing of it.
func TestFramesRoundTrip(t *testing.T) {
	t.Parallel()
	const seq = 1<<62 + 1
	at := time.Date(2026, 1, 2, 3, 4, 5, 6_789_000, time.FixedZone("", 3600))
	var batch hub.Batch
	var want []string
	for _, size := range []int{0, 1, 2, 123, 125, 126, 127, 255, 256, 65533, 65535, 65536, 70000} {
		text := strings.Repeat("z", size)
		batch.Events = append(batch.Events, events.Event{Seq: seq + int64(len(batch.Events)), Payload: json.RawMessage(`"` + text + `"`), Type: "ty\"pe\n", CreatedAt: at, ExpiresAt: at})
		want = append(want, text)
	}
	batch.After, batch.Through = seq-1, seq+int64(len(batch.Events))-1
	v1 := batch
	v1.After, v1.Through = seq-3, v1.Through+1 // two events missing before, one behind

	var stream []byte
	stream = appendPlain(stream, batch)
	stream = appendV1(stream, v1)
	stream = appendBye(stream, hub.Closing{Code: 1012, Reason: "a \"reason\"", ReconnectAfter: 1500 * time.Millisecond})
	got := throughLibrary(t, stream)
	for i, w := range want {
		if got[i] != w {
			t.Fatalf("plain frame %d: %d bytes, want %d", i, len(got[i]), len(w))
		}
	}
	rest := got[len(want):]
	if len(rest) != len(want)+3 {
		t.Fatalf("%d frames of restante.v1, want %d", len(rest), len(want)+3)
	}
	same := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%.300s, want %.300s", got, want)
		}
	}
	same(rest[0], fmt.Sprintf(`{"kind":"gap","from":%d,"to":%d,"reason":"expired"}`, int64(seq-2), int64(seq-1)))
	for i, w := range want {
		same(rest[i+1], fmt.Sprintf(`{"kind":"message","seq":%d,"time":"2026-01-02T02:04:05.006Z","type":"ty\"pe\n","message":"%s","expires":"2026-01-02T02:04:05.006Z"}`, seq+int64(i), w))
	}
	same(rest[len(rest)-2], fmt.Sprintf(`{"kind":"gap","from":%d,"to":%d,"reason":"expired"}`, v1.Through, v1.Through))
	same(rest[len(rest)-1], `{"kind":"bye","code":1012,"reason":"a \"reason\"","reconnectAfterMs":1500}`)
}

// RFC 6455 section 5.2: the length in the fewest bytes.
func TestHeadersAreTheShortest(t *testing.T) {
	t.Parallel()
	for length, want := range map[int]int{0: 2, 125: 2, 126: 4, 65535: 4, 65536: maxHeader} {
		if got := len(appendHeader(nil, finText, length)); got != want {
			t.Errorf("the header of %d bytes has %d, want %d", length, got, want)
		}
	}
}

// throughLibrary sends bytes to a client of the library's, in one write, and
// returns the text frames that it reads.
func throughLibrary(t *testing.T, stream []byte) (frames []string) {
	t.Helper()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := &hijacker{ResponseWriter: w, timeout: 10 * time.Second}
		c, err := websocket.Accept(h, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := h.conn.Write(stream); err != nil {
			t.Error(err)
		}
		_ = c.Close(websocket.StatusNormalClosure, "")
	}))
	defer web.Close()
	c, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(web.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.CloseNow() }()
	c.SetReadLimit(1 << 20)
	for {
		kind, r, err := c.Reader(t.Context())
		if websocket.CloseStatus(err) == websocket.StatusNormalClosure {
			return frames
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || kind != websocket.MessageText {
			t.Fatalf("%v frame: %v", kind, err)
		}
		frames = append(frames, string(text))
	}
}
