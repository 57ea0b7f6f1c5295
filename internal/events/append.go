package events

import (
	"context"
	"fmt"
	"iter"
	"slices"
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
	stuck    stuck         // the commit loop's alone
	ended    chan struct{} // closed when nothing will be committed any more
}

// appendRequest is one Append: all of it is committed together, or none.
type appendRequest struct {
	msgs     []Message
	bytes    int
	receipts []Receipt
	err      error
	done     chan struct{}

	before, after *appendRequest // in its publisher's line of the queue
}

func newAppender(cfg Config, m *metrics, t *tail, q *queue) *appender {
	return &appender{
		store:    appendStore{pool: cfg.Durable, deliverDelay: cfg.DeliverDelay},
		metrics:  m,
		tail:     t,
		history:  cfg.History,
		onCommit: cfg.OnCommit,
		queue:    q,
		stuck:    stuck{},
		ended:    make(chan struct{}),
	}
}

// Append writes messages to their users' streams, in the order given, as one
// transaction, and returns when they are on disk. receipts[i] belongs to msgs[i];
// a receipt whose Err is ErrKeyReused is the only message of the group that is not
// in the log. When Postgres refuses a value, every receipt of the group says so.
//
// Errors: ErrOverloaded and ErrUnavailable (nothing was written), ErrOutcomeUnknown.
// When ctx ends first, Append returns its error, and the messages may still be
// committed.
func (l *Log) Append(ctx context.Context, msgs []Message) ([]Receipt, error) {
	r := &appendRequest{msgs: msgs, done: make(chan struct{})}
	for i := range msgs {
		r.bytes += len(msgs[i].Payload)
	}
	a := l.appends
	if r.large() {
		a = l.largeAppends
	}
	if err := a.enqueue(r); err != nil {
		return nil, err
	}
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
	defer close(a.ended)
	batch := make([]*appendRequest, 0, batchMessages)
	for {
		batch = a.queue.take(ctx, batch[:0])
		if len(batch) == 0 {
			return
		}
		a.commit(ctx, batch)
		for _, r := range batch {
			close(r.done)
		}
		clear(batch)
	}
}

// commit writes a batch and fills in its requests' answers.
func (a *appender) commit(ctx context.Context, batch []*appendRequest) {
	if batch = a.refuseStuck(batch); len(batch) == 0 {
		return
	}
	start := time.Now()
	heads, err := a.try(ctx, batch)
	a.metrics.commitSeconds.Observe(time.Since(start).Seconds())
	if err == nil {
		a.committed(batch, heads)
		return
	}
	if _, rolledBack := refused(err); rolledBack && len(batch) > 1 {
		// One message, or one user locked by something slow, must not fail the others.
		a.noteStuck(ctx, batch, err)
		for i := range batch {
			a.commitAlone(ctx, batch[i:i+1])
		}
		return
	}
	a.noteStuck(ctx, batch, err)
	a.failed(batch, err)
}

// commitAlone commits one request on its own.
func (a *appender) commitAlone(ctx context.Context, one []*appendRequest) {
	if one = a.refuseStuck(one); len(one) == 0 {
		return
	}
	heads, err := a.try(ctx, one)
	if err != nil {
		a.noteStuck(ctx, one, err)
		a.failed(one, err)
		return
	}
	a.committed(one, heads)
}

// refuseStuck answers the requests that would wait for a stuck stream, and
// returns the others.
func (a *appender) refuseStuck(batch []*appendRequest) []*appendRequest {
	now := time.Now()
	if !slices.ContainsFunc(batch, func(r *appendRequest) bool { return a.stuck.holds(r, now) }) {
		return batch
	}
	rest := make([]*appendRequest, 0, len(batch))
	for _, r := range batch {
		if !a.stuck.holds(r, now) {
			rest = append(rest, r)
			continue
		}
		a.failed([]*appendRequest{r}, fmt.Errorf("append events: %w: the stream is locked", ErrUnavailable))
	}
	return rest
}

// try writes a batch, again as long as it was rolled back for losing a race.
func (a *appender) try(ctx context.Context, batch []*appendRequest) (heads []Head, err error) {
	// Not the requests' contexts: one that gives up must not fail the others.
	// And not cancelled by the shutdown, so that what has begun is answered.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	for range commitTries {
		heads, err = a.store.write(ctx, batch)
		if isOutcomeUnknown(err) || !lostRace(err) && !pgconn.SafeToRetry(err) {
			return heads, err
		}
		a.metrics.appendErrors.WithLabelValues("lost_race").Inc()
	}
	return heads, err
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
			continue
		}
		r.err = err
	}
}
