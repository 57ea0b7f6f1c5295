package events

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Bounds of reading. Read returns at most maxPageEvents events and stops after
// the one that reaches maxPageBytes, or what ReadUpTo was given, so a page is at most
// that plus one message.
const (
	readLoops     = 2  // statements in flight
	readGroup     = 64 // readers that share a statement
	readQueue     = 1024
	maxPageEvents = 256
	maxPageBytes  = 256 << 10
	maxPageSeqs   = 1024 // seqs looked at for a page, whatever has expired: a statement with 64 such reads takes 20 ms
	readTimeout   = 5 * time.Second
)

// reader reads for several sessions with one statement: a wake from another
// replica usually concerns many users at once.
type reader struct {
	pool    *pgxpool.Pool
	history *History
	metrics *metrics
	queue   chan *readRequest
	ended   chan struct{} // closed when the loops stop: what is queued is not read any more
	end     func()        // closes ended
}

type readRequest struct {
	user  string
	after int64
	bytes int // the page stops after the event that reaches it
	page  Page
	start int64 // where the page was looked for: after, or acked if all between has expired
	holes bool  // the page leaves out pending events
	err   error
	done  chan struct{}
}

func newReader(cfg Config, m *metrics) *reader {
	ended := make(chan struct{})
	return &reader{
		pool: cfg.Durable, history: cfg.History, metrics: m, queue: make(chan *readRequest, readQueue),
		ended: ended, end: sync.OnceFunc(func() { close(ended) }),
	}
}

// Read returns the events of a user after a position. Page.Through says how far
// the log was looked at; when it is not less than the user's head, there was
// nothing more. knownHead, when positive, is a head that the caller has heard of:
// if the tail reaches it, Postgres is not asked whether there is more.
//
// A pending event that the page leaves out because its time is up has been
// expired before Read returns.
//
// Errors: ErrUnavailable, or ctx's.
func (l *Log) Read(ctx context.Context, userID string, after, knownHead int64) (Page, error) {
	return l.ReadUpTo(ctx, userID, after, knownHead, maxPageBytes)
}

// ReadUpTo is Read with a smaller page from Postgres, for a reader that will not
// take a whole one: it stops after the event that reaches maxBytes. 0 stands for a
// page of Read's.
func (l *Log) ReadUpTo(ctx context.Context, userID string, after, knownHead int64, maxBytes int) (Page, error) {
	if maxBytes <= 0 || maxBytes > maxPageBytes {
		maxBytes = maxPageBytes
	}
	if knownHead > after {
		if found, ok := l.tail.read(userID, after, maxPageEvents, time.Now()); ok {
			l.metrics.reads.WithLabelValues("tail").Inc()
			return Page{Events: found, Through: found[len(found)-1].Seq}, nil
		}
	}
	l.metrics.reads.WithLabelValues("log").Inc()
	r := &readRequest{user: userID, after: after, bytes: maxBytes, done: make(chan struct{})}
	select {
	case l.reads.queue <- r:
	case <-l.reads.ended:
		return Page{}, ErrUnavailable
	case <-ctx.Done():
		return Page{}, context.Cause(ctx)
	}
	select {
	case <-r.done:
		return l.settlePage(ctx, r)
	case <-l.reads.ended:
		return Page{}, ErrUnavailable
	case <-ctx.Done():
		return Page{}, context.Cause(ctx)
	}
}

// settlePage expires what a page leaves out. A page that has nothing but expired
// events, and does not reach the head, goes as far as they do. That takes longer
// than a page, so it is done here, where other readers do not wait for it.
func (l *Log) settlePage(ctx context.Context, r *readRequest) (Page, error) {
	switch {
	case r.err != nil:
	case len(r.page.Events) == 0 && r.page.Through < r.page.Head:
		if r.page.Through, r.err = l.stepOver(ctx, r.user, r.start, r.page.Head); r.err == nil && r.page.Through <= r.start {
			r.err = ErrUnavailable // Postgres's clock was set back: read again
		}
	case r.holes:
		r.err = l.expire(ctx, r.user, r.start, r.page.Through-r.start)
	}
	if r.err != nil {
		return Page{}, r.err
	}
	return r.page, nil
}

func (r *reader) run(ctx context.Context) {
	for {
		select {
		case first := <-r.queue:
			r.serve(r.gather(first))
		case <-ctx.Done():
			r.end()
			return
		}
	}
}

func (r *reader) gather(first *readRequest) []*readRequest {
	group := []*readRequest{first}
	for len(group) < readGroup {
		select {
		case next := <-r.queue:
			group = append(group, next)
		default:
			return group
		}
	}
	return group
}

func (r *reader) serve(group []*readRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	start := time.Now()
	err := r.read(ctx, group)
	r.history.meets(err)
	r.metrics.readSeconds.Observe(time.Since(start).Seconds())
	for _, req := range group {
		if err != nil {
			req.page, req.err = Page{}, unavailable("read events", err)
		}
		close(req.done)
	}
}

// passedSQL is true of a stream s whose acked was moved by expiry: nothing is left
// between confirmed and acked. If the event at acked is there, a client has
// confirmed it through the release before, which does not know confirmed.
const passedSQL = `(s.confirmed < s.acked AND NOT EXISTS (
	SELECT 1 FROM events a WHERE a.user_id = s.user_id AND a.seq = s.acked AND NOT EXISTS (
		SELECT 1 FROM expired_ranges x WHERE x.user_id = a.user_id AND a.seq BETWEEN x.from_seq AND x.to_seq)))`

// confirmedSQL is what clients have confirmed of a stream s.
const confirmedSQL = `CASE WHEN ` + passedSQL + ` THEN s.confirmed ELSE s.acked END`

// readSQL returns a row per event, and one row with a NULL seq for a stream that
// has none. Head and acked come from the same snapshot as the events: what is at
// or below the head, among the seqs looked at, and not returned has expired or is
// gone already.
const readSQL = `
SELECT q.i, s.head, s.acked, p.start, e.seq, e.payload, coalesce(e.type, ''), coalesce(e.traceparent, ''), e.created_at, e.expires_at
FROM unnest($1::text[], $2::bigint[], $4::int[]) WITH ORDINALITY AS q(user_id, after, bytes, i)
JOIN streams s ON s.user_id = q.user_id
CROSS JOIN LATERAL (SELECT CASE WHEN q.after < s.acked AND s.confirmed <= q.after AND ` + passedSQL + ` THEN s.acked ELSE q.after END AS start) p
LEFT JOIN LATERAL (
	SELECT * FROM (
		SELECT seq, payload, type, traceparent, created_at, expires_at,
			sum(octet_length(payload)) OVER (ORDER BY seq ROWS UNBOUNDED PRECEDING) - octet_length(payload) AS bytes_before
		FROM events
		WHERE user_id = q.user_id AND seq > p.start AND seq <= p.start + $5::bigint AND expires_at > now()
		ORDER BY seq LIMIT $3) page
	WHERE bytes_before < q.bytes) e ON true
WHERE ` + guardSQL + `$6` + guardEndSQL + `
ORDER BY q.i, e.seq`

func (r *reader) read(ctx context.Context, group []*readRequest) error {
	users, after, bytes := make([]string, len(group)), make([]int64, len(group)), make([]int32, len(group))
	for i, req := range group {
		users[i], after[i], bytes[i] = req.user, req.after, int32(req.bytes)
		req.page.Through, req.start = req.after, req.after
	}
	rows, err := r.pool.Query(ctx, readSQL, users, after, maxPageEvents, bytes, maxPageSeqs, r.history.guard())
	if err != nil {
		return err
	}
	var (
		i         int64
		head      int64
		acked     int64
		start     int64
		seq       *int64
		e         Event
		created   *time.Time
		expires   *time.Time
		pageBytes = make([]int, len(group))
		from      = slices.Clone(after)       // or acked, if that is further: what comes after it is pending
		pending   = make([]int64, len(group)) // events of the page that are
	)
	_, err = pgx.ForEachRow(rows, []any{&i, &head, &acked, &start, &seq, &e.Payload, &e.Type, &e.Traceparent, &created, &expires}, func() error {
		if i < 1 || i > int64(len(group)) {
			return fmt.Errorf("reader %d did not ask", i)
		}
		req := group[i-1]
		page := &req.page
		req.start, page.Head = start, head
		page.Through = max(req.after, min(head, start+maxPageSeqs))
		from[i-1] = max(from[i-1], acked)
		if seq != nil {
			e.Seq, e.CreatedAt, e.ExpiresAt = *seq, *created, *expires
			page.Events = append(page.Events, e)
			pageBytes[i-1] += len(e.Payload)
			e.Payload = nil // the next row's must not share it
			if e.Seq > acked {
				pending[i-1]++
			}
		}
		return nil
	})
	for i, req := range group {
		// A page that was cut says only how far it goes.
		if n := len(req.page.Events); n == maxPageEvents || pageBytes[i] >= req.bytes {
			req.page.Through = req.page.Events[n-1].Seq
		}
		req.holes = req.page.Through-from[i] > pending[i]
	}
	return err
}
