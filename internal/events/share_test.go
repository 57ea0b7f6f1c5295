package events_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"restante/internal/events"
	"restante/internal/testdb"
)

func startPatient(t *testing.T) *replica {
	t.Helper()
	url := testdb.New(t).URL
	return startLogOn(t, url, patient(t, url))
}

// array makes a request of n messages of a publisher, the last of them for user.
func array(publisher, user string, n, bytes int) []events.Message {
	var msgs []events.Message
	one := message(user, strings.Repeat("x", bytes))
	one.Publisher = publisher
	for i := range n {
		m := one
		if i < n-1 {
			m.UserID = fmt.Sprint("filler-", i)
		}
		msgs = append(msgs, m)
	}
	return msgs
}

// The counter-example: 16 arrays of 8 MB of one publisher are 16 commits of 150 ms
// each, and a message of another publisher waits for all of them, or, served in
// turn, for one.
func TestLargeRequestsDoNotKeepOtherPublishersWaiting(t *testing.T) {
	t.Parallel()
	log := startPatient(t)
	gate := log.shutWhen(t, "events", "NEW.user_id = 'gate'")
	var large []<-chan result[[]events.Receipt]
	for range 16 {
		large = append(large, doing(func() ([]events.Receipt, error) {
			return log.Append(t.Context(), array("flood", "gate", 100, 1000))
		}))
	}
	log.held(t, 1) // a large commit is on its way, and stays there
	for i := range 20 {
		m := message(fmt.Sprint("someone-", i), "hello")
		m.Publisher = "other"
		if _, err := log.Append(t.Context(), []events.Message{m}); err != nil {
			t.Fatal(err)
		}
	}
	for _, done := range large {
		select {
		case r := <-done:
			t.Fatalf("a large request is answered already, so it proves nothing: %v", r.err)
		default:
		}
	}
	gate.open()
	for _, done := range large {
		get(t, "large append", done)
	}
}

// Requests that have to leave the queue for another publisher's are answered.
func TestRequestsPushedOutAreAnswered(t *testing.T) {
	t.Parallel()
	log := startPatient(t)
	gate := log.shutWhen(t, "events", "NEW.user_id = 'gate'")
	long := array("same name", "gate", 2, 6<<20)
	post := func(credential string) <-chan result[[]events.Receipt] {
		msgs := slices.Clone(long)
		for i := range msgs {
			msgs[i].Credential = credential
		}
		return doing(func() ([]events.Receipt, error) { return log.Append(t.Context(), msgs) })
	}
	first := post("key one")
	log.held(t, 1)
	// Five of 12 MiB fit into 64; the credential is what shares are of.
	var flood, other []<-chan result[[]events.Receipt]
	for range 6 {
		flood = append(flood, post("key one"))
	}
	overloaded := func(results []<-chan result[[]events.Receipt], want int) {
		t.Helper()
		n := 0
		until(t, fmt.Sprint(want, " requests are refused"), func() bool {
			for i, done := range results {
				select {
				case r := <-done:
					if !errors.Is(r.err, events.ErrOverloaded) {
						t.Fatalf("append: %v, want %v", r.err, events.ErrOverloaded)
					}
					n++
					results[i] = nil
				default:
				}
			}
			return n == want
		})
	}
	overloaded(flood, 1)
	for range 2 {
		other = append(other, post("key two"))
	}
	overloaded(flood, 2)
	gate.open()
	get(t, "first append", first)
	for _, done := range append(flood, other...) {
		if done != nil {
			get(t, "append", done)
		}
	}
}
