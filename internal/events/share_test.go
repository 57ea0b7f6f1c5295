package events_test

import (
	"fmt"
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
