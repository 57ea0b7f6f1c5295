package events_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"restante/internal/events"
)

func TestAppendNumbersEachStreamFromOne(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	receipts, err := log.Append(t.Context(), []events.Message{
		message("bea", "b1"), message("al", "a1"), message("bea", "b2"), message("al", "a2"), message("bea", "b3"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{1, 1, 2, 2, 3} {
		if receipts[i].Seq != want {
			t.Errorf("message %d got seq %d, want %d", i, receipts[i].Seq, want)
		}
		if receipts[i].Err != nil || receipts[i].Repeated || receipts[i].ExpiresAt.Sub(receipts[i].AcceptedAt) != time.Hour {
			t.Errorf("message %d: receipt %+v", i, receipts[i])
		}
	}
	page, err := log.Read(t.Context(), "bea", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := texts(page); got != `"b1" "b2" "b3"` || page.Through != 3 {
		t.Errorf("read %s through %d", got, page.Through)
	}
}

func texts(page events.Page) string {
	var all []string
	for _, e := range page.Events {
		all = append(all, string(e.Payload))
	}
	return strings.Join(all, " ")
}

// The bytes are the publisher's: jsonb would reorder, a string column would be
// enough for text only.
func TestPayloadKeepsItsBytes(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	for _, payload := range []string{`{"b": 1,  "a":2, "a":3}`, `"\u0000 \ud800"`, `1e400`, `[ ]`, `"` + strings.Repeat("ü", 32000) + `"`} {
		m := message("al", "")
		m.Payload = []byte(payload)
		m.Type, m.Traceparent = "kind", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		receipts, err := log.Append(t.Context(), []events.Message{m})
		if err != nil {
			t.Fatal(err)
		}
		page, err := log.Read(t.Context(), "al", receipts[0].Seq-1, 0)
		if err != nil || len(page.Events) != 1 {
			t.Fatalf("read: %v, %d events", err, len(page.Events))
		}
		if e := page.Events[0]; string(e.Payload) != payload || e.Type != m.Type || e.Traceparent != m.Traceparent || !e.CreatedAt.Equal(receipts[0].AcceptedAt) {
			t.Errorf("wrote %.40q, read %.40q (type %q, trace %q)", payload, e.Payload, e.Type, e.Traceparent)
		}
	}
}

func TestConcurrentPublishersLeaveNoHole(t *testing.T) {
	t.Parallel()
	url := startLog(t).durable.Config().ConnString()
	replicas := []*replica{startLogOn(t, url), startLogOn(t, url), startLogOn(t, url)}
	const publishers, each = 40, 25
	seqs := make([][]int64, publishers)
	var wg sync.WaitGroup
	for p := range publishers {
		wg.Go(func() {
			for i := range each {
				m := message("al", fmt.Sprintf("%d/%d", p, i))
				if i%5 == 0 {
					m.Key = fmt.Sprintf("%d/%d", p, i) // keyed and unkeyed batches must mix
				}
				receipts, err := replicas[p%3].Append(t.Context(), []events.Message{m, message(fmt.Sprint("other", p%7), "x")})
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				seqs[p] = append(seqs[p], receipts[0].Seq)
			}
		})
	}
	wg.Wait()
	seen := map[int64]bool{}
	for p, own := range seqs {
		for i, seq := range own {
			if seen[seq] {
				t.Fatalf("seq %d was given twice", seq)
			}
			seen[seq] = true
			if i > 0 && seq <= own[i-1] {
				t.Fatalf("publisher %d: seq %d after %d", p, seq, own[i-1])
			}
		}
	}
	for seq := int64(1); seq <= publishers*each; seq++ {
		if !seen[seq] {
			t.Fatalf("seq %d was given to nobody", seq)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	keyed := func(text, key string) events.Message {
		m := message("al", text)
		m.Key = key
		return m
	}
	first, err := log.Append(t.Context(), []events.Message{keyed("one", "k1")})
	if err != nil {
		t.Fatal(err)
	}
	again, err := log.Append(t.Context(), []events.Message{
		keyed("one", "k1"), keyed("other", "k1"), keyed("two", "k2"), keyed("two", "k2"), keyed("three", "k2"), message("al", "four"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := again[0]; !r.Repeated || r.Seq != first[0].Seq || !r.AcceptedAt.Equal(first[0].AcceptedAt) || !r.ExpiresAt.Equal(first[0].ExpiresAt) {
		t.Errorf("repeated message: %+v, first was %+v", r, first[0])
	}
	if !errors.Is(again[1].Err, events.ErrKeyReused) {
		t.Errorf("other message under the same key: %+v", again[1])
	}
	if again[2].Seq != 2 || again[2].Repeated || again[3].Seq != 2 || !again[3].Repeated {
		t.Errorf("one key twice in a batch: %+v, %+v", again[2], again[3])
	}
	if !errors.Is(again[4].Err, events.ErrKeyReused) || again[5].Seq != 3 {
		t.Errorf("rest of the batch: %+v, %+v", again[4], again[5])
	}
	// Another publisher's key is another key.
	m := keyed("one", "k1")
	m.Publisher = "somebody else"
	if r, err := log.Append(t.Context(), []events.Message{m}); err != nil || r[0].Repeated || r[0].Seq != 4 {
		t.Errorf("another publisher: %+v, %v", r, err)
	}
}

// Whoever looks before it has the lock misses the row that the lock's holder has
// just committed, and writes the message twice.
func TestConcurrentRetriesAreOneMessage(t *testing.T) {
	t.Parallel()
	url := startLog(t).durable.Config().ConnString()
	replicas := []*replica{startLogOn(t, url), startLogOn(t, url), startLogOn(t, url)}
	for round := range 30 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		fresh := 0
		for i := range 9 {
			wg.Go(func() {
				m := message("al", "once")
				m.Key = fmt.Sprint("round", round)
				r, err := replicas[i%3].Append(t.Context(), []events.Message{m})
				if err != nil || r[0].Err != nil || r[0].Seq != int64(round+1) {
					t.Errorf("round %d: %+v, %v", round, r, err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if !r[0].Repeated {
					fresh++
				}
			})
		}
		wg.Wait()
		if fresh != 1 {
			t.Fatalf("round %d: written %d times", round, fresh)
		}
	}
}

func TestOneBadMessageFailsAlone(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	release := holdLock(t, log, "slow") // so that what follows collects into one batch
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = log.Append(t.Context(), []events.Message{message("slow", "x")}) })
	results := make([]error, 8)
	for i := range results {
		wg.Go(func() {
			m := message("al", fmt.Sprint(i))
			if i == 3 {
				m.UserID = strings.Repeat("x", 300) // the schema's own bound: 23514
			}
			r, err := log.Append(t.Context(), []events.Message{m})
			if err == nil {
				err = r[0].Err
			}
			results[i] = err
		})
	}
	release()
	wg.Wait()
	for i, err := range results {
		if (err != nil) != (i == 3) {
			t.Errorf("message %d: %v", i, err)
		}
	}
}

// A stream that is locked by something slow fails its own messages, and does not
// stop those of the others.
func TestLockedStreamDoesNotStopOthers(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	release := holdLock(t, log, "stuck")
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := log.Append(t.Context(), []events.Message{message("stuck", "x")}); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("append to a locked stream: %v", err)
		}
	})
	for i := range 10 {
		wg.Go(func() {
			if _, err := log.Append(t.Context(), []events.Message{message(fmt.Sprint("free", i), "x")}); err != nil {
				t.Errorf("append to another stream: %v", err)
			}
		})
	}
	wg.Wait()
}

// holdLock locks a user's stream until release is called.
func holdLock(t *testing.T, log *replica, user string) (release func()) {
	t.Helper()
	log.exec(t, `INSERT INTO streams (user_id) VALUES ($1) ON CONFLICT DO NOTHING`, user)
	tx, err := log.relaxed.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT 1 FROM streams WHERE user_id = $1 FOR UPDATE`, user); err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() { _ = tx.Rollback(t.Context()) })
}

func TestKeyedAndPlainBatchesDoNotDeadlock(t *testing.T) {
	t.Parallel()
	url := startLog(t).durable.Config().ConnString()
	replicas := []*replica{startLogOn(t, url), startLogOn(t, url)}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 40 {
				var msgs []events.Message
				for u := range 12 {
					m := message(fmt.Sprint("user", (u*7+w*5+i)%12), "x")
					if (u+w)%3 == 0 {
						m.Key = fmt.Sprint(w, "/", i, "/", u)
					}
					msgs = append(msgs, m)
				}
				if _, err := replicas[w%2].Append(t.Context(), msgs); err != nil {
					t.Errorf("append: %v", err)
					return
				}
				replicas[w%2].Ack(msgs[0].UserID, int64(i))
			}
		})
	}
	wg.Wait()
	var deadlocks int64
	if err := replicas[0].relaxed.QueryRow(t.Context(), `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`).Scan(&deadlocks); err != nil {
		t.Fatal(err)
	}
	if deadlocks > 0 {
		t.Errorf("%d deadlocks", deadlocks)
	}
}
