package events_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"restante/internal/database"
	"restante/internal/events"
)

// traffic is publishers that post to users without a break, one message at a time.
type traffic struct {
	posted atomic.Int64
	stop   func()
}

func startTraffic(t *testing.T, key string, replicas ...*replica) *traffic {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	tr := &traffic{}
	var wg sync.WaitGroup
	for p := range 8 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				m := message(fmt.Sprint("free", (p*5+i)%40), "x")
				if key != "" {
					m.Key = fmt.Sprint(key, p, "/", i)
				}
				if _, err := replicas[p%len(replicas)].Append(t.Context(), []events.Message{m, message(fmt.Sprint("other", p), "x")}); err != nil {
					if ctx.Err() == nil {
						t.Errorf("append to free streams: %v", err)
					}
					return
				}
				tr.posted.Add(1)
			}
		})
	}
	tr.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(tr.stop)
	return tr
}

// during returns how many posts there were in some time.
func (tr *traffic) during(d time.Duration) int64 {
	before := tr.posted.Load()
	<-time.After(d)
	return tr.posted.Load() - before
}

func many(prefix string, n int) (users []string) {
	for i := range n {
		users = append(users, fmt.Sprintf("%s%04d", prefix, i))
	}
	return users
}

// The counter-example: something slow holds one user's stream. Every commit that has
// a message for this user waits for it, and holds the streams of others meanwhile.
func TestLockedStreamsHoldNobodyUp(t *testing.T) {
	t.Parallel()
	creating := `INSERT INTO streams (user_id) SELECT unnest($1::text[])`
	for name, c := range map[string]struct {
		stuck    []string
		creating bool // the streams are just being created by somebody else
		key      string
		array    bool // the locked stream is one of many in the same request
	}{
		"one":                 {stuck: []string{"m stuck"}},
		"keys":                {stuck: []string{"m stuck"}, key: "k"},
		"a thousand":          {stuck: many("m", 1000)},
		"being created":       {stuck: []string{"m new"}, creating: true},
		"many being created":  {stuck: many("n", 20), creating: true},
		"keys, being created": {stuck: []string{"m new"}, creating: true, key: "k"},
		"in an array":         {stuck: []string{"m stuck"}, array: true},
	} {
		t.Run(name, func(t *testing.T) {
			log := startLog(t)
			url := log.durable.Config().ConnString()
			one, metrics1 := measured(t, url)
			two, metrics2 := measured(t, url)
			quiet, metrics := measured(t, url)
			tr := startTraffic(t, c.key, one, two)
			before := tr.during(time.Second)
			var release func()
			if c.creating {
				release = log.foreign(t, creating, c.stuck)
			} else {
				log.exec(t, creating, c.stuck)
				release = log.lockAll(t, c.stuck...)
			}
			request := func(i int, from string) []events.Message {
				msgs := []events.Message{message(c.stuck[i%len(c.stuck)], "x")}
				if c.key != "" {
					msgs[0].Key = fmt.Sprint(from, i)
				}
				if c.array {
					msgs = append(append([]events.Message{message("a", "x")}, msgs...), message("z", "x"))
				}
				return msgs
			}
			var waiting, others []<-chan result[[]events.Receipt]
			for i := range max(len(c.stuck), 10) {
				for _, r := range []*replica{one, two} {
					others = append(others, doing(func() ([]events.Receipt, error) { return r.Append(t.Context(), request(i, fmt.Sprintf("%p", r))) }))
				}
				if i < 10 { // one after the other, so that their order is known
					waiting = append(waiting, doing(func() ([]events.Receipt, error) { return quiet.Append(t.Context(), request(i, "quiet")) }))
					until(t, "request is aside", func() bool { return metric(t, metrics, "restante_append_set_aside_total") == float64(i+1) })
				}
			}
			until(t, "the others are aside", func() bool {
				return metric(t, metrics1, "restante_append_aside_requests")+metric(t, metrics2, "restante_append_aside_requests") >= float64(len(others))
			})
			during := tr.during(time.Second)
			t.Logf("%d posts in a second before, %d while streams are locked", before, during)
			if during < before/8 {
				t.Errorf("others: %d posts in a second, %d before", during, before)
			}
			if c.array {
				if s, err := log.Stream(t.Context(), "a"); err == nil && s.Head > 0 {
					t.Errorf("a part of a request was written: %+v", s)
				}
			}
			release()
			last := map[string]int64{}
			for i, done := range waiting {
				user := c.stuck[i%len(c.stuck)]
				receipts := get(t, "append to "+user, done)
				seq := receipts[len(receipts)/2].Seq
				if seq <= last[user] {
					t.Errorf("request %d to %s has seq %d, after %d", i, user, seq, last[user])
				}
				last[user] = seq
			}
			for _, done := range others {
				get(t, "append to a locked stream", done)
			}
			tr.stop()
			for _, m := range []string{"restante_append_aside_requests", "restante_append_locked_streams"} {
				until(t, m+" is 0", func() bool { return metric(t, metrics, m) == 0 })
			}
		})
	}
}

// A stream that stays locked is answered in time, and remembered: whoever comes next
// costs the others nothing.
func TestAppendToAStreamThatStaysLockedFails(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.post(t, "free", "x")
	log.post(t, "stuck", "x")
	release := log.lockAll(t, "stuck")
	for range 2 {
		start := time.Now()
		_, err := log.Append(t.Context(), []events.Message{message("free", "y"), message("stuck", "y")})
		if !errors.Is(err, events.ErrUnavailable) || errors.Is(err, events.ErrOutcomeUnknown) {
			t.Errorf("append to a locked stream: %v", err)
		}
		if took := time.Since(start); took < 4*time.Second || took > 12*time.Second {
			t.Errorf("refused after %v", took)
		}
	}
	if seq := log.post(t, "free", "z"); seq != 2 {
		t.Errorf("a part of a refused request was written: next seq %d", seq)
	}
	release()
	if seq := log.post(t, "stuck", "z"); seq != 2 {
		t.Errorf("next seq of the locked stream is %d", seq)
	}
}

// A message that Postgres refuses fails alone, also where streams are locked.
func TestBadMessageAmongLockedStreams(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	log.post(t, "stuck", "x")
	release := log.lockAll(t, "stuck")
	var stuck, free []<-chan result[[]events.Receipt]
	var bad <-chan result[[]events.Receipt]
	for i := range 40 {
		switch {
		case i == 17:
			bad = appending(t, log, strings.Repeat("bad", 100))
		case i%2 == 0:
			stuck = append(stuck, appending(t, log, "stuck"))
		default:
			free = append(free, appending(t, log, fmt.Sprint("free", i)))
		}
	}
	for _, done := range free {
		get(t, "append to a free stream", done)
	}
	if r := <-bad; r.err != nil || r.value[0].Err == nil {
		t.Errorf("bad message: %+v", r)
	}
	release()
	for _, done := range stuck {
		get(t, "append to the locked stream", done)
	}
}

// One stream with many requests aside does not keep another from being tried.
func TestStreamsThatAreAsideTakeTurns(t *testing.T) {
	t.Parallel()
	log, metrics := measured(t, startLog(t).durable.Config().ConnString())
	log.post(t, "flood", "x")
	log.post(t, "quiet", "x")
	flood, quiet := log.lockAll(t, "flood"), log.lockAll(t, "quiet")
	defer flood()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var refused atomic.Int64
	for range 3000 {
		wg.Go(func() {
			if _, err := log.Append(ctx, []events.Message{message("flood", "x")}); errors.Is(err, events.ErrUnavailable) {
				refused.Add(1)
			}
		})
	}
	until(t, "the flood has its share", func() bool {
		return metric(t, metrics, "restante_append_aside_requests") == 2048 && refused.Load() == 3000-2048
	})
	waits := appending(t, log, "quiet")
	until(t, "request is aside", func() bool { return metric(t, metrics, "restante_append_aside_requests") > 2048 })
	quiet()
	get(t, "append to the stream that is free again", waits)
}

// freezing is a way to Postgres on which a replica can be made to stand still: what
// Postgres sends is not read any more, as by a process that was stopped.
type freezing struct {
	armed  atomic.Bool
	frozen chan struct{}
	thaw   chan struct{}
}

func (f *freezing) dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return &freezingConn{c, f}, err
}

type freezingConn struct {
	net.Conn
	f *freezing
}

func (c *freezingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.f.armed.CompareAndSwap(true, false) {
		close(c.f.frozen)
		<-c.f.thaw
	}
	return n, err
}

// The counter-example: a replica is stopped in the middle of a transaction that holds
// streams. Its connection stays, and so do the locks.
func TestReplicaThatStandsStillHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	url := log.durable.Config().ConnString()
	way := &freezing{frozen: make(chan struct{}), thaw: make(chan struct{})}
	cfg, err := database.DurableConfig(url, 1)
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.DialFunc = way.dial
	pool, err := database.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	stopped := startLogOn(t, url, func(c *events.Config) { c.Durable = pool })
	healthy := startLogOn(t, url)
	keyed := func(key string) []events.Message {
		m := message("m", "x")
		m.Key = key
		return []events.Message{m}
	}
	thaw := sync.OnceFunc(func() { close(way.thaw) })
	t.Cleanup(thaw)
	tr := startTraffic(t, "", healthy)
	before := tr.during(time.Second)
	for i := range 3 { // the statements are prepared, and the connection is not idle
		if _, err := stopped.Append(t.Context(), keyed(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	way.armed.Store(true)
	lost := doing(func() ([]events.Receipt, error) {
		return stopped.Append(context.WithoutCancel(t.Context()), keyed("lost"))
	})
	<-way.frozen
	healthy.blocked(t, 1, `state = 'idle in transaction'`)
	posted := appending(t, healthy, "m")
	if during := tr.during(time.Second); during < before/8 {
		t.Errorf("others: %d posts in a second, %d before", during, before)
	}
	// Postgres ends the transaction after a second.
	if r := get(t, "append to the stream that the stopped replica holds", posted); r[0].Seq != 4 {
		t.Errorf("seq %d", r[0].Seq)
	}
	thaw()
	if r := <-lost; !errors.Is(r.err, events.ErrUnavailable) && !errors.Is(r.err, events.ErrOutcomeUnknown) {
		t.Errorf("append of the stopped replica: %v", r.err)
	}
}
