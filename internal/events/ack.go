package events

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// ackEvery is how long acks are collected. An ack costs a transaction whatever
	// is in it: against 5 ms, 10 % less CPU a message at 500 messages/s, 15 % at 16
	// publishers.
	ackEvery   = 20 * time.Millisecond
	ackRetry   = 250 * time.Millisecond
	ackTimeout = 5 * time.Second
	ackStreams = 5000 // streams per statement
)

// acker writes the positions that clients confirm, many in one statement, which
// waits for no stream: positions of streams that are locked move to late, and
// ackLate writes them. A position that could not be written for another reason
// stays, and goes with the next batch.
type acker struct {
	pool    *pgxpool.Pool
	history *History
	metrics *metrics

	mu      sync.Mutex // guards pending and late; no user is in both
	pending map[string]int64
	late    map[string]*lateAck
	wake    chan struct{} // has room for one: something is pending
	skipped chan struct{} // has room for one: something is late
}

func newAcker(cfg Config, m *metrics) *acker {
	return &acker{
		pool: cfg.Relaxed, history: cfg.History, metrics: m, pending: map[string]int64{}, late: map[string]*lateAck{},
		wake: make(chan struct{}, 1), skipped: make(chan struct{}, 1),
	}
}

// Ack records that a client has confirmed every event of a user up to seq. It
// does not wait: the position is written within milliseconds, and if that is
// lost the client is sent the events again. The caller must not confirm more
// than was sent (I5); Ack is idempotent and never moves backwards.
func (l *Log) Ack(userID string, seq int64) { l.acks.add(userID, seq) }

func (a *acker) add(user string, seq int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if late := a.late[user]; late != nil {
		late.seq = max(late.seq, seq)
		return
	}
	if seq > a.pending[user] {
		a.pending[user] = seq
	}
	signal(a.wake)
}

// signal leaves a note in a channel that has room for one.
func signal(note chan struct{}) {
	select {
	case note <- struct{}{}:
	default:
	}
}

// run writes acks until ctx ends, and then what is left of them.
func (a *acker) run(ctx context.Context) {
	late, flushed := context.WithCancel(context.WithoutCancel(ctx))
	var g sync.WaitGroup
	g.Go(func() { a.runLate(late) })
	a.runFlush(ctx)
	flushed()
	g.Wait()
}

func (a *acker) runFlush(ctx context.Context) {
	pause := time.NewTimer(0)
	<-pause.C
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			a.flush(ctx)
			return
		}
		wait := ackEvery
		if !a.flush(ctx) {
			wait = ackRetry
			signal(a.wake)
		}
		pause.Reset(wait)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

func (a *acker) take() map[string]int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := a.pending
	a.pending = make(map[string]int64, len(taken))
	return taken
}

// flush writes what is pending and reports whether no statement failed. It is
// not cut short by the shutdown, whose last flush it is.
func (a *acker) flush(ctx context.Context) bool {
	taken := a.take()
	if len(taken) == 0 {
		return true
	}
	users := make([]string, 0, len(taken))
	for user := range taken {
		users = append(users, user)
	}
	slices.Sort(users) // neighbours in the index
	for chunk := range slices.Chunk(users, ackStreams) {
		seqs := make([]int64, len(chunk))
		for i, user := range chunk {
			seqs[i] = taken[user]
		}
		locked, err := a.write(context.WithoutCancel(ctx), chunk, seqs)
		if err != nil {
			a.restore(taken)
			return false
		}
		a.postpone(taken, locked)
		for _, user := range chunk {
			delete(taken, user)
		}
	}
	return true
}

func (a *acker) restore(unwritten map[string]int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for user, seq := range unwritten {
		a.pending[user] = max(a.pending[user], seq)
	}
}

// ackSQL leaves out the streams that are locked at the moment. It waits for nobody,
// so the order in which it locks does not matter.
const ackSQL = `
WITH l AS MATERIALIZED (
	SELECT s.user_id, a.seq FROM unnest($1::text[], $2::bigint[]) AS a(user_id, seq)
	JOIN streams s ON s.user_id = a.user_id
	WHERE (s.acked < a.seq OR s.confirmed < a.seq) AND ` + guardSQL + `$3` + guardEndSQL + `
	FOR NO KEY UPDATE OF s SKIP LOCKED)
UPDATE streams s SET acked = greatest(s.acked, least(l.seq, s.head)),
	confirmed = CASE WHEN l.seq < s.acked THEN greatest(s.confirmed, l.seq) END
FROM l WHERE s.user_id = l.user_id AND (s.acked < l.seq OR s.confirmed < l.seq)`

// ackLeftSQL finds what ackSQL has left out.
const ackLeftSQL = `
SELECT a.user_id FROM unnest($1::text[], $2::bigint[]) AS a(user_id, seq)
JOIN streams s ON s.user_id = a.user_id WHERE s.acked < least(a.seq, s.head) OR s.confirmed < a.seq`

// write writes positions and returns the users whose streams were locked.
func (a *acker) write(ctx context.Context, users []string, seqs []int64) (locked []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	defer func(start time.Time) {
		a.metrics.ackSeconds.Observe(time.Since(start).Seconds())
		if err != nil {
			a.metrics.ackErrors.Inc()
		}
	}(time.Now())
	written, err := a.pool.Exec(ctx, ackSQL, users, seqs, a.history.guard())
	a.history.meets(err)
	if err != nil {
		return nil, err
	}
	a.metrics.acked.Add(float64(written.RowsAffected()))
	if written.RowsAffected() == int64(len(users)) {
		return nil, nil
	}
	rows, err := a.pool.Query(ctx, ackLeftSQL, users, seqs) // most of them had been written before
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
