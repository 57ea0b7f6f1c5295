package torture

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	monitorEvery = 50 * time.Millisecond

	// How long what is legal for a moment may last. A lane may be parked under a
	// live session while its replica's lease has lapsed and until the heartbeat
	// has noticed and attached the session again (a quarter of a lease each, 1.5 s
	// in the torture), and a session may be behind for a sweep (300 ms). The rest
	// is for a machine that is busy and for faults in a row.
	parkedAtMost = 8 * time.Second
	behindAtMost = 5 * time.Second
)

// row is what one snapshot says about a user.
type row struct {
	User        string
	Head, Acked int64
	Lane        int16
	Job         bool // an unfinished delivery job exists
}

// snapshotSQL is one statement, so nothing can change between what it compares.
const snapshotSQL = `
SELECT s.user_id, s.head, s.acked, s.lane, j.user_id IS NOT NULL
FROM streams s LEFT JOIN (
	SELECT DISTINCT args->>'user_id' AS user_id FROM river_job
	WHERE kind = 'deliver' AND state IN ('available', 'pending', 'retryable', 'running', 'scheduled')) j ON j.user_id = s.user_id`

func (w *world) snapshot(ctx context.Context) ([]row, error) {
	ctx, cancel := context.WithTimeout(ctx, faultTimeout)
	defer cancel()
	rows, err := w.pool.Query(ctx, snapshotSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[row])
}

// monitor watches the invariants.
type monitor struct {
	w       *world
	rules   rules
	users   map[string]*user
	polls   int
	parked  time.Duration // the longest that a lane was seen parked under a live session
	behind  time.Duration // the longest that a session was seen behind
	running sync.WaitGroup
	stop    context.CancelFunc
}

// rules are what the monitor lets pass.
type rules struct {
	behindAtMost time.Duration
	blind        func() bool // the database may be away; nil: never
}

// watch starts the monitor. What it has measured may be read after its end.
func (w *world) watch(rules rules) *monitor {
	ctx, cancel := context.WithCancel(context.Background())
	m := &monitor{w: w, users: map[string]*user{}, stop: cancel, rules: rules}
	for _, u := range w.users {
		m.users[u.name] = u
	}
	m.running.Go(func() { every(ctx, monitorEvery, func() { m.look(ctx) }) })
	w.t.Cleanup(m.end)
	return m
}

func (m *monitor) end() {
	m.stop()
	m.running.Wait()
}

func (m *monitor) look(ctx context.Context) {
	start := time.Now()
	rows, err := m.w.snapshot(ctx)
	if err != nil {
		if ctx.Err() == nil && (m.rules.blind == nil || !m.rules.blind()) {
			m.w.violate("the monitor cannot see: %v", err)
		}
		m.forget() // a Postgres that takes 5 s to recover is no session that was not served
		return
	}
	m.polls++
	for _, r := range rows {
		u := m.users[r.User]
		if u == nil && r.User == poisoned && r.Head == 0 {
			continue // made while its message waited for a stream that was held, and empty
		}
		if u == nil {
			m.w.violate("user %q: a stream that nobody asked for", r.User)
			continue
		}
		if r.Head > r.Acked && r.Lane == 0 {
			m.w.violate("I1: user %s: head %d, acked %d, and the lane is idle", u.name, r.Head, r.Acked)
		}
		if r.Lane == 1 && !r.Job && !m.w.tampers.excuses(r.User, start) {
			m.w.violate("I2: user %s: the lane is owed, and there is no unfinished delivery job", u.name)
		}
		if confirmed := u.confirmed.Load(); r.Acked > confirmed {
			m.w.chk.Expired(u.name, r.Acked) // judged at the end: what nobody has confirmed has expired (I5)
		}
		for _, d := range u.devices {
			if l := d.link(); l != nil {
				m.judge(u, l, r, start)
			}
		}
	}
}

// forget breaks the row of snapshots of every connection.
func (m *monitor) forget() {
	for _, u := range m.users {
		for _, d := range u.devices {
			if l := d.link(); l != nil {
				l.parkedSince, l.behindSince = time.Time{}, time.Time{}
			}
		}
	}
}

// judge compares a connection with what the snapshot says of its user. A state
// counts from the first to the last of an unbroken row of snapshots.
func (m *monitor) judge(u *user, l *link, r row, now time.Time) {
	last, holding, open := l.state()
	lasts := func(since *time.Time, is bool) time.Duration {
		switch {
		case !is || !open:
			*since = time.Time{}
			return 0
		case since.IsZero():
			*since = now
		}
		return now.Sub(*since)
	}
	parked := lasts(&l.parkedSince, r.Lane == 2)
	m.parked = max(m.parked, parked)
	if parked > parkedAtMost {
		m.w.violate("I3: user %s: the lane has been parked for %s under a session that has lived for %s (head %d, acked %d)",
			u.name, parked, now.Sub(l.since), r.Head, r.Acked)
		l.parkedSince = time.Time{}
	}
	// A client that holds acks back may have filled its window.
	behind := lasts(&l.behindSince, last < r.Head && !holding)
	m.behind = max(m.behind, behind)
	if behind > m.rules.behindAtMost {
		m.w.violate("I6: user %s: a session stands at %d of %d, and has been behind for %s", u.name, last, r.Head, behind)
		l.behindSince = time.Time{}
	}
}
