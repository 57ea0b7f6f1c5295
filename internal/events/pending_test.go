package events_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"restante/internal/events"
	"restante/internal/testdb"
)

// bounded starts a replica that takes at most n pending messages a user.
func bounded(t *testing.T, url string, n int64) *replica {
	t.Helper()
	return startLogOn(t, url, func(cfg *events.Config) { cfg.MaxPending = n })
}

// The bound holds for all replicas together, to the message: what fits is taken, also
// when it comes all at once.
func TestPendingMessagesOfAUserAreBounded(t *testing.T) {
	t.Parallel()
	const limit, posts = 10, 60
	db := testdb.New(t)
	replicas := []*replica{bounded(t, db.URL, limit), bounded(t, db.URL, limit)}
	for _, user := range []string{"new", "known"} {
		if user == "known" {
			replicas[0].known(t, user)
		}
		var accepted, refused atomic.Int64
		var g sync.WaitGroup
		for i := range posts {
			g.Go(func() {
				m := message(user, fmt.Sprint(i))
				if i%3 == 0 {
					m.Key = fmt.Sprint(i)
				}
				receipts, err := replicas[i%2].Append(t.Context(), []events.Message{m, message("other", fmt.Sprint(user, i))}[:1+i%2])
				var full *events.TooManyPendingError
				switch {
				case err != nil:
					t.Error(err)
				case receipts[0].Err == nil:
					accepted.Add(1)
				case errors.Is(receipts[0].Err, events.ErrTooManyPending) && errors.As(receipts[0].Err, &full) && full.Limit == limit:
					refused.Add(1)
				default:
					t.Error(receipts[0].Err)
				}
			})
		}
		g.Wait()
		head, acked := replicas[0].stream(t, user)
		if accepted.Load() != head-acked || head > limit || accepted.Load()+refused.Load() != posts {
			t.Errorf("%s: %d accepted, %d refused, head %d, acked %d", user, accepted.Load(), refused.Load(), head, acked)
		}
		// One by one, what is left of the room is taken.
		for range limit - head {
			if r := appendOne(t, replicas[0], message(user, "more")); r.Err != nil {
				t.Errorf("%s: there was room: %v", user, r.Err)
			}
		}
		if r := appendOne(t, replicas[1], message(user, "too many")); !errors.Is(r.Err, events.ErrTooManyPending) {
			t.Errorf("%s: %+v", user, r)
		}
		// Confirmed messages are not pending.
		replicas[0].Ack(user, 3)
		until(t, "acked", func() bool { _, acked := replicas[0].stream(t, user); return acked == 3 })
		until(t, "there is room again", func() bool { return appendOne(t, replicas[1], message(user, "later")).Err == nil })
	}
}

func appendOne(t *testing.T, r *replica, m events.Message) events.Receipt {
	t.Helper()
	receipts, err := r.Append(t.Context(), []events.Message{m})
	if err != nil {
		t.Fatal(err)
	}
	return receipts[0]
}

// stream returns a stream's head and acked position.
func (r *replica) stream(t *testing.T, user string) (head, acked int64) {
	t.Helper()
	if err := r.relaxed.QueryRow(t.Context(), `SELECT head, acked FROM streams WHERE user_id = $1`, user).Scan(&head, &acked); err != nil {
		t.Fatal(err)
	}
	return head, acked
}

// A user's full stream concerns nobody else's message in the same request, and a key
// that was accepted before is answered as before.
func TestFullStreamConcernsItsUserOnly(t *testing.T) {
	t.Parallel()
	r := bounded(t, testdb.New(t).URL, 2)
	first := message("al", "1")
	first.Key = "k"
	if got := appendOne(t, r, first); got.Err != nil {
		t.Fatal(got.Err)
	}
	appendOne(t, r, message("al", "2"))
	receipts, err := r.Append(t.Context(), []events.Message{message("bea", "1"), message("al", "3"), message("bea", "2"), message("cy", "1"), message("cy", "2"), message("cy", "3")})
	if err != nil {
		t.Fatal(err)
	}
	for i, full := range []bool{false, true, false, true, true, true} { // cy's three are more than may be
		if got := errors.Is(receipts[i].Err, events.ErrTooManyPending); got != full || !full && receipts[i].Err != nil {
			t.Errorf("message %d: %+v", i, receipts[i])
		}
	}
	if receipts[0].Seq != 1 || receipts[2].Seq != 2 {
		t.Errorf("bea's: %+v", receipts)
	}
	if again := appendOne(t, r, first); again.Err != nil || !again.Repeated || again.Seq != 1 {
		t.Errorf("the first key again: %+v", again)
	}
}

// What has expired is not pending, whether or not trim or a reader has come by: a
// user who was away gets the next message.
func TestExpiredMessagesAreNotPending(t *testing.T) {
	t.Parallel()
	r := bounded(t, testdb.New(t).URL, 3)
	for range 3 {
		m := message("al", "short")
		m.TTL = time.Millisecond
		if got := appendOne(t, r, m); got.Err != nil {
			t.Fatal(got.Err)
		}
	}
	until(t, "they have expired", func() bool {
		var left int
		if err := r.relaxed.QueryRow(t.Context(), `SELECT count(*) FROM events WHERE user_id = 'al' AND expires_at > now()`).Scan(&left); err != nil {
			t.Fatal(err)
		}
		return left == 0
	})
	if got := appendOne(t, r, message("al", "live")); got.Err != nil || got.Seq != 4 {
		t.Errorf("%+v", got)
	}
}
