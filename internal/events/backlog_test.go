package events_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"restante/internal/events"
)

// backlog makes n messages of a user whose time is up, but for those of live.
func (r *replica) backlog(t *testing.T, user string, n int, live ...int64) {
	t.Helper()
	r.exec(t, `INSERT INTO streams (user_id, head) VALUES ($1, $2)`, user, n)
	r.exec(t, `INSERT INTO events (user_id, seq, payload, publisher, created_at, expires_at)
		SELECT $1, s, '"x"', 'test', now() - interval '1 h', now() + CASE WHEN s = ANY($3) THEN interval '1 h' ELSE interval '-1 min' END
		FROM generate_series(1, $2::bigint) s`, user, n, live)
}

func (r *replica) number(t *testing.T, sql string, args ...any) (n int64) {
	t.Helper()
	if err := r.relaxed.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// readOn reads from a position to the head, as a session does, and returns what it
// was given, as "seq …", and gaps as "from-to". It fails if that takes many reads.
func (r *replica) readOn(t *testing.T, user string, after, head int64, most int) (got []string) {
	t.Helper()
	for reads := 0; after < head; reads++ {
		if reads == most {
			t.Fatalf("%s: after %d reads at %d of %d: %v", user, reads, after, head, got)
		}
		page := r.read(t, user, after)
		if page.Through <= after {
			t.Fatalf("%s: a read after %d goes through %d", user, after, page.Through)
		}
		for _, e := range page.Events {
			if e.Seq != after+1 {
				got = append(got, fmt.Sprint(after+1, "-", e.Seq-1))
			}
			got = append(got, fmt.Sprint(e.Seq))
			after = e.Seq
		}
		if after < page.Through {
			got = append(got, fmt.Sprint(after+1, "-", page.Through))
			after = page.Through
		}
	}
	return got
}

// The counter-example: 5,000,000 messages of one user have expired. A read looks at
// all of them for the next one, and deletes all of them under the stream's lock.
func TestReaderStepsOverALargeBacklog(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	const n = 100_000
	for user, test := range map[string]struct {
		live []int64
		want string
	}{
		"all":    {nil, "[1-100000]"},
		"first":  {[]int64{1}, "[1 2-1024 1025-100000]"},
		"last":   {[]int64{n}, "[1-99999 100000]"},
		"middle": {[]int64{50_000}, "[1-49999 50000 50001-51023 51024-100000]"},
		"ends":   {[]int64{1, n}, "[1 2-1024 1025-99999 100000]"},
		"edges":  {[]int64{51_200, 51_201}, "[1-51199 51200 51201 51202-52223 52224-100000]"},
	} {
		log.backlog(t, user, n, test.live...)
		if got := fmt.Sprint(log.readOn(t, user, 0, n, 5)); got != test.want {
			t.Errorf("%s: read %s, want %s", user, got, test.want)
		}
		if deleted := n - log.number(t, `SELECT count(*) FROM events WHERE user_id = $1`, user); deleted > 2*1024 {
			t.Errorf("%s: reading deleted %d events", user, deleted)
		}
		if again := fmt.Sprint(log.readOn(t, user, 0, n, 5)); len(test.live) == 0 && again != test.want {
			t.Errorf("%s: read %s again, want %s", user, again, test.want)
		}
		log.trim(t)
		if left := log.number(t, `SELECT count(*) FROM events WHERE user_id = $1`, user); left != int64(len(test.live)) {
			t.Errorf("%s: %d events are left after the trim", user, left)
		}
		for _, seq := range []int64{1, 1024, 1025, 49_999, n} {
			want := events.Expired
			for _, live := range test.live {
				if live == seq {
					want = events.Accepted
				}
			}
			if status, err := log.Status(t.Context(), user, seq); err != nil || status.State != want {
				t.Errorf("%s: message %d is %s, %v; want %s", user, seq, status.State, err, want)
			}
		}
	}
	if left := log.number(t, `SELECT (SELECT count(*) FROM expired_ranges) + (SELECT count(*) FROM event_blocks b JOIN streams s USING (user_id) WHERE b.through <= s.acked)`); left != 0 {
		t.Errorf("%d ranges and useless blocks are left", left)
	}
}

// Blocks are a shortcut. Without them, as after an upgrade, the backlog is looked
// through.
func TestReaderStepsOverABacklogWithoutBlocks(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.backlog(t, "al", 100_000, 100_000)
	log.exec(t, `DELETE FROM event_blocks WHERE through % 3072 = 0`)
	log.backlog(t, "bea", 100_000, 100_000)
	log.exec(t, `DELETE FROM event_blocks WHERE user_id = 'bea'`)
	for _, user := range []string{"al", "bea"} {
		if got := fmt.Sprint(log.readOn(t, user, 0, 100_000, 20)); got[len(got)-8:] != " 100000]" {
			t.Errorf("%s: read %s", user, got)
		}
	}
}

// Whatever a range holds expired while it was pending, whatever is confirmed later.
func TestStatusOfARange(t *testing.T) {
	t.Parallel()
	log, metrics := measured(t, startLog(t).durable.Config().ConnString())
	log.backlog(t, "al", 10_000, 1, 10_000)
	log.exec(t, `UPDATE streams SET acked = 1 WHERE user_id = 'al'`)
	log.exec(t, `UPDATE events SET expires_at = now() WHERE seq = 1`)
	log.readOn(t, "al", 1, 10_000, 5)
	log.confirm(t, "al", 10_000)
	want := func(when string) {
		t.Helper()
		for seq, state := range map[int64]events.State{1: events.Delivered, 2: events.Expired, 5000: events.Expired, 9999: events.Expired, 10_000: events.Delivered} {
			if status, err := log.Status(t.Context(), "al", seq); err != nil || status.State != state {
				t.Errorf("%s: message %d is %s, %v; want %s", when, seq, status.State, err, state)
			}
		}
	}
	want("before the trim")
	log.trim(t)
	want("after the trim")
	if n := metric(t, metrics, "restante_events_expired_total"); n != 9998 {
		t.Errorf("%v events were counted", n)
	}
	if n := metric(t, metrics, "restante_events_trimmed_total"); n != 0 {
		t.Errorf("%v events were counted as delivered", n)
	}
}

// A block is noted when all of it is there, and never with too early an expiry.
func TestBlocksAreNotedWhenTheyAreComplete(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	blocks := func() int64 { return log.number(t, `SELECT count(*) FROM event_blocks`) }
	log.fill(t, "al", 1023, 10)
	if n := blocks(); n != 0 {
		t.Errorf("%d blocks of 1,023 events", n)
	}
	log.fill(t, "al", 1200, 10)
	if n := blocks(); n != 2 {
		t.Errorf("%d blocks of 2,223 events", n)
	}
	log.exec(t, `DELETE FROM events WHERE seq = 2100`)
	log.fill(t, "al", 1000, 10)
	if n := blocks(); n != 2 {
		t.Errorf("%d blocks: one is incomplete", n)
	}
	log.confirm(t, "al", 3100)
	log.fill(t, "al", 1000, 10)
	if n := blocks(); n != 2 {
		t.Errorf("%d blocks: one is being confirmed", n)
	}
	log.exec(t, `UPDATE events SET created_at = created_at - interval '1 h'`)
	log.fill(t, "al", 1000, 10)
	if n := blocks(); n != 2 {
		t.Errorf("%d blocks: one took an hour, and its events may not be in memory", n)
	}
	early := `SELECT count(*) FROM event_blocks b WHERE expires_at < (SELECT max(expires_at) FROM events e
		WHERE e.user_id = b.user_id AND e.seq > b.through - 1024 AND e.seq <= b.through)`
	if n := log.number(t, early); n != 0 {
		t.Errorf("%d blocks are too early", n)
	}
	log.exec(t, `UPDATE events SET expires_at = expires_at + interval '1 day' WHERE seq IN (1, 2048)`)
	if n := log.number(t, early); n != 0 {
		t.Errorf("%d blocks are too early for messages that were prolonged", n)
	}
}

// Two replicas append messages that expire at once or late, others read, confirm
// and trim. Every message that lasts is read; what is not read lies in a gap.
func TestNoLastingMessageIsSteppedOver(t *testing.T) {
	t.Parallel()
	url := startLog(t).durable.Config().ConnString()
	logs := []*replica{startLogOn(t, url), startLogOn(t, url)}
	ctx, stop := context.WithTimeout(t.Context(), 4*time.Second)
	defer stop()
	var appending, trimming sync.WaitGroup
	lasting := make([]map[int64]bool, len(logs))
	for i, log := range logs {
		lasting[i] = map[int64]bool{}
		appending.Go(func() {
			for ctx.Err() == nil {
				share := []int{0, 0, 1, 2000, 20000}[rand.N(5)] // of 20000 that last
				msgs := make([]events.Message, 1+rand.N(600))
				for k := range msgs {
					msgs[k] = message("al", "x")
					if rand.N(20000) >= share {
						msgs[k].TTL = time.Millisecond
					}
				}
				receipts, err := log.Append(t.Context(), msgs)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				for k := range msgs {
					if msgs[k].TTL == time.Hour {
						lasting[i][receipts[k].Seq] = true
					}
				}
			}
		})
		trimming.Go(func() {
			for ctx.Err() == nil {
				if _, err := log.Trim(t.Context(), time.Duration(rand.N(3))*10*time.Millisecond); err != nil {
					t.Errorf("trim: %v", err)
					return
				}
			}
		})
	}
	given, position := map[int64]bool{}, int64(0)
	read := func(log *replica) {
		page := log.read(t, "al", position)
		for _, e := range page.Events {
			given[e.Seq] = true
		}
		position = page.Through
		if rand.N(4) == 0 {
			log.Ack("al", position)
		}
		if rand.N(50) == 0 { // a client that comes back
			at, err := log.Attach(t.Context(), events.Session{ID: fmt.Sprint(position), UserID: "al", ReplicaID: "r", Transport: "test", ConnectedAt: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			position = at["al"].Acked
		}
	}
	for ctx.Err() == nil {
		read(logs[rand.N(2)])
	}
	appending.Wait()
	trimming.Wait()
	for head := logs[0].number(t, `SELECT head FROM streams`); position < head; {
		read(logs[0])
	}
	var n int
	for i := range logs {
		for seq := range lasting[i] {
			n++
			if !given[seq] {
				t.Errorf("message %d lasts and was not read", seq)
			}
		}
	}
	if blocks := logs[0].number(t, `SELECT head / 1024 FROM streams`); n < 10 || blocks < 5 {
		t.Errorf("only %d lasting messages in %d blocks", n, blocks)
	}
}
