package events

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Bounds of one group commit.
const (
	batchMessages = 1024    // messages per commit; a larger request is committed alone
	batchBytes    = 1 << 20 // payload bytes per commit
	commitTimeout = 5 * time.Second
	commitTries   = 5 // of a batch that lost a race and was rolled back
)

// appender commits the messages of concurrent requests together: it flushes at
// once when no flush is in flight and collects while one is. One batch is in
// flight at a time; several writers that share users only wait for each other's
// row locks (measured: no gain, more CPU). Large requests have an appender of their
// own, see queue.
type appender struct {
	store    appendStore
	metrics  *metrics
	tail     *tail
	history  *History
	onCommit func([]Head, iter.Seq[Entry])
	queue    *queue
	aside    *aside        // of all appenders
	overfull *overfull     // of all appenders
	ended    chan struct{} // closed when nothing will be committed any more
}

// appendRequest is one Append: all of it is committed together, or none.
type appendRequest struct {
	msgs     []Message
	bytes    int
	receipts []Receipt
	err      error
	done     chan struct{}
	again    bool // it has had its second chance, see overfull

	before, after *appendRequest // in its publisher's line of the queue
}

func newAppender(cfg Config, m *metrics, t *tail, q *queue, s *aside) *appender {
	return &appender{
		store:    s.store,
		aside:    s,
		metrics:  m,
		tail:     t,
		history:  cfg.History,
		onCommit: cfg.OnCommit,
		queue:    q,
		ended:    make(chan struct{}),
	}
}

// Append writes messages to their users' streams, in the order given, as one
// transaction, and returns when they are on disk. receipts[i] belongs to msgs[i];
// a message whose receipt has ErrKeyReused or ErrTooManyPending is not in the log, and
// the others are. When Postgres refuses a value, every receipt of the group says so.
//
// Errors: ErrOverloaded and ErrUnavailable (nothing was written), ErrOutcomeUnknown.
// When ctx ends first, Append returns its error, and the messages may still be
// committed.
func (l *Log) Append(ctx context.Context, msgs []Message) ([]Receipt, error) {
	r := &appendRequest{msgs: msgs, done: make(chan struct{})}
	for i := range msgs {
		r.bytes += len(msgs[i].Payload)
	}
	if err := l.enqueue(r); err != nil {
		return nil, err
	}
	a := l.appenderOf(r)
	select {
	case <-r.done:
		return r.receipts, r.err
	case <-a.ended:
		select {
		case <-r.done: // it was in the last batch
			return r.receipts, r.err
		default:
			return nil, ErrUnavailable
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (l *Log) appenderOf(r *appendRequest) *appender {
	if r.large() {
		return l.largeAppends
	}
	return l.appends
}

func (l *Log) enqueue(r *appendRequest) error { return l.appenderOf(r).enqueue(r) }

func (a *appender) enqueue(r *appendRequest) error {
	pushedOut, ok := a.queue.add(r)
	for _, p := range pushedOut {
		a.metrics.appendErrors.WithLabelValues("overloaded").Inc()
		p.err = ErrOverloaded
		close(p.done)
	}
	if !ok {
		a.metrics.appendErrors.WithLabelValues("overloaded").Inc()
		return ErrOverloaded
	}
	return nil
}

// run commits what is queued. What it leaves in the queue, and what comes later, is
// answered by ended.
func (a *appender) run(ctx context.Context) {
	defer func() {
		<-a.aside.ended
		close(a.ended)
	}()
	batch := make([]*appendRequest, 0, batchMessages)
	for {
		batch = a.queue.take(ctx, batch[:0])
		if len(batch) == 0 {
			return
		}
		a.commit(ctx, batch)
		clear(batch)
	}
}

// commit writes a batch and answers its requests, or sets them aside.
func (a *appender) commit(ctx context.Context, batch []*appendRequest) {
	if batch = a.aside.divert(batch); len(batch) == 0 {
		return
	}
	if a.aside.suspicious() {
		a.commitFree(ctx, batch)
		return
	}
	start := time.Now()
	var heads []Head
	err := a.try(ctx, func(ctx context.Context) (err error) {
		heads, err = a.store.write(ctx, batch)
		return err
	})
	a.metrics.commitSeconds.Observe(time.Since(start).Seconds())
	switch {
	case err == nil:
		a.committed(batch, heads)
	case lockTimeout(err):
		a.aside.suspect()
		a.commitFree(ctx, batch)
	default:
		a.commitHalves(ctx, batch, err)
	}
}

// commitFree writes a batch without waiting for streams that somebody keeps locked:
// their requests are set aside. It costs a second round trip, so it is used only when
// a plain commit has just run into such a stream.
func (a *appender) commitFree(ctx context.Context, batch []*appendRequest) {
	start := time.Now()
	var done written
	for _, mode := range []lockMode{{create: true, wait: asideCreate}, {}} {
		err := a.try(ctx, func(ctx context.Context) (err error) {
			done, err = a.store.writeFree(ctx, batch, mode)
			return err
		})
		if err == nil {
			break
		}
		if !lockTimeout(err) {
			a.metrics.commitSeconds.Observe(time.Since(start).Seconds())
			a.commitHalves(ctx, batch, err)
			return
		}
		// Somebody is creating one of the streams, or has locked a whole table.
		done = written{locked: usersOf(batch)}
	}
	a.metrics.commitSeconds.Observe(time.Since(start).Seconds())
	if len(done.requests) > 0 {
		a.committed(done.requests, done.heads)
	}
	if len(done.requests) < len(batch) {
		a.aside.add(without(batch, done.requests), done.locked)
	}
}

// commitHalves commits the halves of a batch that Postgres has refused, so that one
// bad message does not fail the others.
func (a *appender) commitHalves(ctx context.Context, batch []*appendRequest, err error) {
	if _, rolledBack := refused(err); !rolledBack || len(batch) == 1 {
		a.failed(batch, err)
		return
	}
	a.commit(ctx, batch[:len(batch)/2])
	a.commit(ctx, batch[len(batch)/2:])
}

func usersOf(batch []*appendRequest) map[string]bool {
	users := map[string]bool{}
	for _, r := range batch {
		for i := range r.msgs {
			users[r.msgs[i].UserID] = true
		}
	}
	return users
}

// without returns the requests that are not among some of them, in the same order.
func without(batch, some []*appendRequest) (rest []*appendRequest) {
	i := 0
	for _, r := range batch {
		if i < len(some) && some[i] == r {
			i++
			continue
		}
		rest = append(rest, r)
	}
	return rest
}

// try writes a batch, again as long as it was rolled back for losing a race.
func (a *appender) try(ctx context.Context, write func(context.Context) error) (err error) {
	// Not the requests' contexts: one that gives up must not fail the others.
	// And not cancelled by the shutdown, so that what has begun is answered.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	for range commitTries {
		err = write(ctx)
		if isOutcomeUnknown(err) || !lostRace(err) && !pgconn.SafeToRetry(err) {
			return err
		}
		a.metrics.appendErrors.WithLabelValues("lost_race").Inc()
	}
	return err
}

// committed feeds the tail, then wakes: the other way round a session would
// wake, miss the tail and ask Postgres.
func (a *appender) committed(batch []*appendRequest, heads []Head) {
	var msgs, repeated, bytes int
	var newest knownEvent
	for _, r := range batch {
		for i := range r.msgs {
			m, rc := &r.msgs[i], &r.receipts[i]
			if rc.Err != nil {
				continue
			}
			if rc.Repeated {
				repeated++
				continue
			}
			msgs++
			bytes += len(m.Payload)
			a.tail.push(m.UserID, newEvent(m, rc))
			newest = knownEvent{m.UserID, rc.Seq, rc.AcceptedAt}
		}
	}
	if msgs > 0 {
		a.history.hasCommitted(newest)
	}
	a.metrics.appended.Add(float64(msgs))
	a.metrics.appendedBytes.Add(float64(bytes))
	a.metrics.repeated.Add(float64(repeated))
	a.metrics.batchSize.Observe(float64(msgs))
	if len(heads) > 0 {
		a.onCommit(heads, entries(batch, heads))
	}
	for _, r := range batch {
		if !a.overfull.takes(r) {
			a.countPending(r)
			close(r.done)
		}
	}
}

// countPending counts the messages of a request that were refused because too many
// are pending.
func (a *appender) countPending(r *appendRequest) {
	for i := range r.receipts {
		if errors.Is(r.receipts[i].Err, ErrTooManyPending) {
			a.metrics.tooManyPending.Inc()
		}
	}
}

// entries are the events that a committed batch has added to these streams.
func entries(batch []*appendRequest, heads []Head) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		grown := make(map[string]bool, len(heads))
		for i := range heads {
			grown[heads[i].UserID] = true
		}
		for _, r := range batch {
			for i := range r.msgs {
				m, rc := &r.msgs[i], &r.receipts[i]
				if rc.Err == nil && !rc.Repeated && grown[m.UserID] && !yield(Entry{m.UserID, newEvent(m, rc)}) {
					return
				}
			}
		}
	}
}

func newEvent(m *Message, rc *Receipt) Event {
	return Event{
		Seq: rc.Seq, Payload: m.Payload, Type: m.Type, Traceparent: m.Traceparent,
		CreatedAt: rc.AcceptedAt, ExpiresAt: rc.ExpiresAt,
	}
}

func (a *appender) failed(batch []*appendRequest, err error) {
	a.history.meets(err)
	reason := "unavailable"
	switch {
	case badData(err):
		reason = "data"
	case isOutcomeUnknown(err):
		reason = "outcome_unknown"
	}
	for _, r := range batch {
		a.metrics.appendErrors.WithLabelValues(reason).Inc()
		if reason == "data" {
			r.receipts = make([]Receipt, len(r.msgs))
			for i := range r.receipts {
				r.receipts[i].Err = err
			}
		} else {
			r.err = err
		}
		close(r.done)
	}
}
