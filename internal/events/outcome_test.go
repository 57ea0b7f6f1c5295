package events_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"restante/internal/database"
	"restante/internal/events"
)

// losingAnswers is a way to Postgres on which one answer can be lost: the request
// arrives and is carried out, and then the connection is gone.
type losingAnswers struct{ armed atomic.Bool }

func (l *losingAnswers) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &losingConn{Conn: conn, way: l}, nil
}

type losingConn struct {
	net.Conn
	way *losingAnswers
}

func (c *losingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p) // so it has been carried out
	if c.way.armed.CompareAndSwap(true, false) {
		c.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// startLosing runs a Log whose appends may lose their answer: arm loses the next one.
func startLosing(t *testing.T, url string) (r *replica, arm func()) {
	t.Helper()
	way := &losingAnswers{}
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
	r = startLogOn(t, url, func(c *events.Config) { c.Durable = pool })
	r.post(t, "warm", "up") // the statement is prepared: from now on an append is one round trip
	return r, func() { way.armed.Store(true) }
}

// The counter-example: the connection breaks after COMMIT was sent. An append
// that is tried again by itself puts the message into the log twice, and one that
// is reported as failed makes the publisher do it.
func TestLostAnswerIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	losing, arm := startLosing(t, log.durable.Config().ConnString())
	arm()
	_, err := losing.Append(t.Context(), []events.Message{message("al", "x")})
	if !errors.Is(err, events.ErrOutcomeUnknown) || errors.Is(err, events.ErrUnavailable) {
		t.Errorf("append without an answer: %v", err)
	}
	if seq := losing.post(t, "al", "y"); seq != 2 {
		t.Errorf("next message has seq %d: the first was written %d times", seq, seq-1)
	}
}

// With an idempotency key the publisher can find out: the retry is told the
// result that was lost.
func TestRetryAfterALostAnswerIsTheFirstResult(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	losing, arm := startLosing(t, log.durable.Config().ConnString())
	keyed := func(key string) events.Message {
		m := message("al", "x")
		m.Key = key
		return m
	}
	for _, key := range []string{"prepare", "these", "statements"} {
		if _, err := losing.Append(t.Context(), []events.Message{keyed(key)}); err != nil {
			t.Fatal(err)
		}
	}
	gate := log.shut(t, "events") // so that the answer that is lost is the one to COMMIT
	failed := doing(func() ([]events.Receipt, error) { return losing.Append(t.Context(), []events.Message{keyed("k")}) })
	log.held(t, 1)
	arm()
	gate.open()
	if r := <-failed; !errors.Is(r.err, events.ErrOutcomeUnknown) {
		t.Errorf("commit without an answer: %v", r.err)
	}
	for range 2 {
		r, err := losing.Append(t.Context(), []events.Message{keyed("k")})
		if err != nil || !r[0].Repeated || r[0].Seq != 4 {
			t.Errorf("retry: %+v, %v", r, err)
		}
	}
}

// A failure before COMMIT was sent is a rollback, whatever became of the
// connection: the publisher may be told that nothing was written.
func TestLostConnectionBeforeCommitIsUnavailable(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	losing, arm := startLosing(t, log.durable.Config().ConnString())
	m := message("al", "x")
	m.Key = "k"
	arm() // the answer to BEGIN, lock, look
	_, err := losing.Append(t.Context(), []events.Message{m})
	if !errors.Is(err, events.ErrUnavailable) || errors.Is(err, events.ErrOutcomeUnknown) {
		t.Errorf("append: %v", err)
	}
	if r, err := losing.Append(t.Context(), []events.Message{m}); err != nil || r[0].Seq != 1 || r[0].Repeated {
		t.Errorf("again: %+v, %v", r, err)
	}
}

// The counter-example: the tail holds 1; 2 is committed without an answer, or by
// another replica; 3 is committed here. A reader that is given 1 and 3 from
// memory has lost 2 for good.
func TestTailDoesNotSkipWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	log := startLog(t)
	losing, arm := startLosing(t, log.durable.Config().ConnString())
	losing.Watch("al")
	defer losing.Unwatch("al")
	losing.post(t, "al", "1")
	arm()
	if _, err := losing.Append(t.Context(), []events.Message{message("al", "2")}); !errors.Is(err, events.ErrOutcomeUnknown) {
		t.Fatal(err)
	}
	losing.post(t, "al", "3")
	log.post(t, "al", "4") // another replica
	losing.post(t, "al", "5")
	var read []int64
	for after := int64(0); after < 5; {
		page, err := losing.Read(t.Context(), "al", after, 5)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range page.Events {
			read = append(read, e.Seq)
		}
		if page.Through == after {
			t.Fatalf("no progress after %d", after)
		}
		after = page.Through
	}
	for i, seq := range read {
		if seq != int64(i+1) || len(read) != 5 {
			t.Fatalf("read %v", read)
		}
	}
}
