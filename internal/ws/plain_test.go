package ws_test

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"restante/internal/coretest"
)

// As wscat, the seed's script and new WebSocket(url) see it: the message, and
// nothing around it.
func TestPlainFramesAreTheMessages(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute})
	c := s.dial(t, "al")
	if c.Subprotocol() != "" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	messages := map[string]string{ // as posted, as received
		`"hello"`:                  `hello`,
		`""`:                       ``,
		`"say \"hi\"\n\u00fcber/"`: "say \"hi\"\nüber/",
		`"\ud83d\ude00 \ud800"`:    "😀 \ufffd",
		`{"b": 1,  "a":[2, 3]}`:    `{"b": 1,  "a":[2, 3]}`,
		`[ ]`:                      `[ ]`,
		`12.50`:                    `12.50`,
		`null`:                     `null`,
	}
	var posted []string
	for p := range messages {
		posted = append(posted, p)
		s.post(t, "al", p)
	}
	for _, p := range posted {
		if got := c.next(); got != messages[p] {
			t.Errorf("posted %s, received %q", p, got)
		}
	}
	s.acked(t, "al", int64(len(posted))-1) // the library answers pings while it reads, and is behind by the last
	c.CloseRead(t.Context())
	s.acked(t, "al", int64(len(posted)))
}

// The pong is the confirmation: without it nothing is confirmed, and each confirms
// what came before its ping.
func TestPongsConfirm(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute})
	c := s.dialRaw(t, "al", "", nil)
	var pings [][]byte
	for seq := uint64(1); seq <= 3; seq++ {
		s.post(t, "al", fmt.Sprintf(`"%d"`, seq))
		if op, text := c.frame(); op != opText || string(text) != fmt.Sprint(seq) {
			t.Fatalf("frame %d %q", op, text)
		}
		op, ping := c.frame()
		if op != opPing || len(ping) != 8 || binary.BigEndian.Uint64(ping) != seq {
			t.Fatalf("frame %d %x", op, ping)
		}
		pings = append(pings, ping)
	}
	c.write(masked(opPong, []byte("of my own accord")), masked(opPong, nil),
		masked(opPong, binary.BigEndian.AppendUint64(nil, 4)),     // beyond what was sent
		masked(opPong, binary.BigEndian.AppendUint64(nil, 1<<63)), // no seq at all
		masked(opPong, pings[1]))
	s.acked(t, "al", 2)
	c.write(masked(opPong, pings[0]), masked(opPong, pings[2]))
	s.acked(t, "al", 3)
}

func TestPlainClientMayTalk(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute})
	c := s.dial(t, "al")
	c.send(websocket.MessageText, `{"kind":"ack","seq":99}`)
	c.send(websocket.MessageBinary, "\x00\xff")
	c.send(websocket.MessageText, strings.Repeat("x", 4096))
	s.post(t, "al", `"still here"`)
	if got := c.next(); got != "still here" {
		t.Errorf("received %q", got)
	}
	c.send(websocket.MessageText, strings.Repeat("x", 4097))
	if code, _, _ := c.closed(); code != websocket.StatusMessageTooBig {
		t.Errorf("a frame that is too large: closed with %d", code)
	}
	s.gone(t, "al")
}

// The counter-example: a peer that vanished without a word. What was written to
// its socket counts for nothing.
func TestVanishedClientLosesNothing(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute, AckTimeout: time.Second})
	vanished := s.dialRaw(t, "al", "", nil)
	s.post(t, "al", `"1"`, `"2"`)
	s.post(t, "al", `"3"`)
	for range 5 { // it reads, and never answers
		vanished.frame()
	}
	for {
		op, payload := vanished.frame()
		if op == opClose {
			if code := binary.BigEndian.Uint16(payload); code != 4408 {
				t.Errorf("closed with %d", code)
			}
			break
		}
	}
	s.gone(t, "al")
	back := s.dial(t, "al")
	for _, want := range []string{"1", "2", "3"} {
		if got := back.next(); got != want {
			t.Errorf("received %q, want %q", got, want)
		}
	}
	back.CloseRead(t.Context())
	s.acked(t, "al", 3)
}

// A client that does not read is given up when one write takes too long, and the
// others do not notice.
func TestClientThatDoesNotReadIsGivenUp(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{DeliverDelay: time.Minute}, shortWrites)
	s.dialRaw(t, "slow", "", nil)
	other := s.dial(t, "other")
	big := `"` + strings.Repeat("x", 64<<10) + `"`
	for i := range 10 {
		s.post(t, "slow", big)
		s.post(t, "other", fmt.Sprint(i))
		if got := other.next(); got != fmt.Sprint(i) {
			t.Errorf("received %q", got)
		}
	}
	s.gone(t, "slow")
	back := s.dial(t, "slow")
	for range 10 {
		if got := back.next(); len(got) != 64<<10 {
			t.Errorf("received %d bytes", len(got))
		}
	}
}

func TestSizesOfFramesArriveIntact(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"", "restante.v1"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			s := serve(t, coretest.Options{DeliverDelay: time.Minute})
			var posted []string
			for _, n := range []int{0, 1, 124, 125, 126, 127, 128, 1000, 65533, 65534, 65535, 65536, 65537, 100_000} {
				// In restante.v1 the frame is larger by what is around the message.
				for _, around := range []int{0, 105, 115, 125, 130} {
					posted = append(posted, strings.Repeat("a", max(0, n-around)))
				}
			}
			for _, p := range posted {
				s.post(t, "al", `"`+p+`"`)
			}
			protocols := []string{protocol}
			if protocol == "" {
				protocols = nil
			}
			c := s.dial(t, "al", protocols...) // all of it is pending, and comes in few writes
			if protocol != "" {
				c.next() // hello
			}
			for i, p := range posted {
				got := c.next()
				if protocol != "" {
					f := parse(t, got)
					if f.Seq != int64(i+1) {
						t.Fatalf("frame %d has seq %d", i, f.Seq)
					}
					got = strings.Trim(string(f.Message), `"`)
					c.send(websocket.MessageText, fmt.Sprintf(`{"kind":"ack","seq":%d}`, f.Seq))
				}
				if got != p {
					t.Fatalf("frame %d: %d bytes arrived of %d", i, len(got), len(p))
				}
			}
		})
	}
}

// Control frames of the client are answered also while it sends no data.
func TestClientMayPing(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{})
	// Sent right behind the handshake, before its answer.
	c := s.dialRaw(t, "al", "", append(masked(opPing, []byte("are you")), masked(opPing, []byte("there"))...))
	for _, want := range []string{"are you", "there"} {
		if op, payload := c.frame(); op != opPong || string(payload) != want {
			t.Errorf("frame %d %q, want the pong to %q", op, payload, want)
		}
	}
	c.write(masked(opClose, binary.BigEndian.AppendUint16(nil, 1000)))
	if op, payload := c.frame(); op != opClose || binary.BigEndian.Uint16(payload) != 1000 {
		t.Errorf("frame %d %q", op, payload)
	}
	s.gone(t, "al")
}

func TestRequestThatIsNoHandshake(t *testing.T) {
	t.Parallel()
	s := serve(t, coretest.Options{})
	response, err := http.Get("http://" + s.address + "?user=al")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("answered %s", response.Status)
	}
	s.gone(t, "al")
}
