package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Lane is a stream's delivery state; see the package doc.
type Lane int16

// The lanes, as they stand in the database.
const (
	Idle   Lane = 0
	Owed   Lane = 1
	Parked Lane = 2
)

const laneTimeout = 5 * time.Second

// Session is one client connection, as the log knows it.
type Session struct {
	ID          string
	UserID      string
	ReplicaID   string
	Transport   string
	ConnectedAt time.Time
}

// Position is where a user's delivery stands. A session begins after Acked: what
// clients have confirmed, even if what comes next has expired.
type Position struct {
	Acked int64
	Head  int64
}

const (
	sessionsSQL = `
INSERT INTO sessions (session_id, user_id, replica_id, transport, connected_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[])
WHERE ` + guardSQL + `$6` + guardEndSQL + `
ON CONFLICT (session_id) DO NOTHING`

	// attachSQL runs under the locks of lockSQL. It sets each lane to what it has
	// to be while somebody is connected: owed if something is pending, and not parked
	// if not: a parked lane whose last event was confirmed late would otherwise stay
	// parked, and appends to a parked lane insert no job. It adds a job only where the
	// lane was not owed, and leaves an owed one to the job it has, or every reconnect
	// would leave one more behind.
	attachSQL = `
WITH old AS (SELECT user_id, lane, head, acked, confirmed FROM streams WHERE user_id = ANY($1)),
up AS (
	UPDATE streams s SET lane = CASE WHEN old.head > old.acked THEN 1 ELSE 0 END
	FROM old WHERE s.user_id = old.user_id AND (old.lane = 2 OR old.lane = 0 AND old.head > old.acked)),
jobs AS (
	INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at)
	SELECT jsonb_build_object('user_id', user_id), '` + JobKind + `', '` + JobQueue + `', ` + jobMaxAttempts + `, now() + $2::interval
	FROM old WHERE head > acked AND lane <> 1)
SELECT user_id, ` + confirmedSQL + `, head FROM old s`
)

// Attach makes sessions known and their users' lanes owed or idle, in one
// transaction; it returns where each user's delivery stands. A session must be
// ready for wakes before it is attached: whatever is appended afterwards is owed
// to it. Attaching again is harmless.
//
// Errors: ErrUnavailable; then nothing is attached, or all of it is and the
// caller does not know: detach.
func (l *Log) Attach(ctx context.Context, sessions ...Session) (map[string]Position, error) {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	var ids, owners, replicas, transports, users []string
	var since []time.Time
	for _, s := range sessions {
		ids, owners, replicas = append(ids, s.ID), append(owners, s.UserID), append(replicas, s.ReplicaID)
		transports, since = append(transports, s.Transport), append(since, s.ConnectedAt)
		users = append(users, s.UserID)
	}
	slices.Sort(users)
	users = slices.Compact(users)

	attach := func(patience time.Duration) (map[string]Position, error) {
		return l.attach(ctx, patience, users, ids, owners, replicas, transports, since)
	}
	positions, err := attach(attachPatience)
	if lockTimeout(err) && len(users) == 1 {
		// Few wait at a time: the connects of users whose streams are locked must not take
		// the connections of everybody else's.
		select {
		case l.attaching <- struct{}{}:
			defer func() { <-l.attaching }()
			positions, err = attach(attachAlone)
		case <-ctx.Done():
		}
	}
	return positions, unavailable("attach session", err)
}

const (
	attachPatience = 50 * time.Millisecond // of a transaction that may hold other streams, for each lock
	attachAlone    = 2 * time.Second       // of one that waits for a single stream
	attaching      = 2                     // that wait so at a time
)

func (l *Log) attach(ctx context.Context, patience time.Duration, users, ids, owners, replicas, transports []string, since []time.Time) (map[string]Position, error) {
	var positions map[string]Position
	err := l.retryLostRace(func() error {
		// One pipeline is one transaction and one round trip; its statements still
		// have a snapshot each, so attachSQL sees what lockSQL has waited for.
		b := &pgx.Batch{}
		b.Queue(lockTimeoutSQL, fmt.Sprint(patience.Milliseconds()))
		b.Queue(sessionsSQL, ids, owners, replicas, transports, since, l.cfg.History.guard())
		b.Queue(lockSQL, users)
		b.Queue(attachSQL, users, l.cfg.DeliverDelay)
		results := l.cfg.Relaxed.SendBatch(ctx, b)
		defer results.Close()
		if err := execAll(results, 3); err != nil {
			return err
		}
		rows, err := results.Query()
		if err != nil {
			return err
		}
		positions = make(map[string]Position, len(users))
		var user string
		var p Position
		if _, err := pgx.ForEachRow(rows, []any{&user, &p.Acked, &p.Head}, func() error {
			positions[strings.Clone(user)] = p
			return nil
		}); err != nil {
			return err
		}
		return results.Close()
	})
	l.cfg.History.meets(err)
	return positions, err
}

// Detach forgets sessions that are closed.
func (l *Log) Detach(ctx context.Context, sessionIDs ...string) error {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	_, err := l.cfg.Relaxed.Exec(ctx, `DELETE FROM sessions WHERE session_id = ANY($1)`, sessionIDs)
	return unavailable("detach session", err)
}

// Debt is what a delivery job finds.
type Debt struct {
	Lane       Lane          // Idle and Parked end the job
	Duplicate  bool          // the lane was not owed when the job looked: another one served it
	PendingFor time.Duration // how long ago, by Postgres's clock, the oldest pending event was appended
	Busy       bool          // nothing is pending, but the next event is to be expected soon
	Locked     bool          // somebody else has the stream locked: nothing was found out
}

const (
	// settleSQL decides under the lock of the statement before it.
	settleSQL = `
UPDATE streams s SET lane = CASE WHEN acked >= head THEN 0 ELSE 2 END
WHERE user_id = $1 AND lane = 1 AND (acked >= head OR NOT EXISTS (
	SELECT 1 FROM sessions x JOIN replicas r ON r.replica_id = x.replica_id
	WHERE x.user_id = $1 AND r.heartbeat_at > now() - $2::interval))
RETURNING lane`

	// oldestPendingSQL reads one event. As a join of s and events with LIMIT 1, which
	// says the same, Postgres reads all that the user ever got: 7 ms for 4,000, which
	// at 100 busy users was a seventh of a core.
	oldestPendingSQL = `(SELECT clock_timestamp() - e.created_at FROM events e
	WHERE e.user_id = s.user_id AND e.seq > s.acked ORDER BY e.seq LIMIT 1)`

	pendingForSQL = `SELECT ` + oldestPendingSQL + ` FROM streams s WHERE user_id = $1`

	stillOwedSQL = `
SELECT head > acked, coalesce(` + oldestPendingSQL + `, '0'), head > armed AND coalesce(
	(SELECT e.created_at > now() - $3::interval FROM events e WHERE e.user_id = s.user_id AND e.seq = s.head), false)
FROM streams s
WHERE user_id = $1 AND lane = 1 AND EXISTS (
	SELECT 1 FROM sessions x JOIN replicas r ON r.replica_id = x.replica_id
	WHERE x.user_id = $1 AND r.heartbeat_at > now() - $2::interval)`
)

// BusyDelays is how many delivery delays without an event end a busy lane.
const BusyDelays = 6

// StillOwed reports whether a lane should stay as it is, owed, for a user who is
// connected: because something is pending, or because the lane is busy: more than
// one event has come since it was turned, and the last one not long ago. Were a busy
// lane made idle, the next event would turn it and bring another job: with 10,000
// users who got a message a second, that was a third of what a message cost Postgres.
//
// A look changes nothing, so it needs no lock and no commit on disk. When the answer
// is no, Settle decides.
func (l *Log) StillOwed(ctx context.Context, userID string) (debt Debt, owed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	var pending bool
	debt.Lane = Owed
	err = l.cfg.Relaxed.QueryRow(ctx, stillOwedSQL, userID, l.cfg.Lease, BusyDelays*l.cfg.DeliverDelay).Scan(&pending, &debt.PendingFor, &debt.Busy)
	debt.Busy = debt.Busy && !pending
	if errors.Is(err, pgx.ErrNoRows) || err == nil && !pending && !debt.Busy {
		return Debt{}, false, nil
	}
	return debt, err == nil, unavailable("look at lane", err)
}

// Settle is the delivery job's look at its user's lane: it turns an owed lane to
// idle when nothing is pending and to parked when nobody is connected, and
// otherwise leaves it owed.
//
// It waits for the disk: the job that has seen its lane settled ends itself in
// River, and if Postgres forgot the lane in a crash between the two, the lane would
// be owed and the job gone (I2). The lock alone writes to Postgres's log, so what
// the job has only seen, an ack or an attach, is on disk as well when it returns.
func (l *Log) Settle(ctx context.Context, userID string) (Debt, error) {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(durablySQL)
	b.Queue(`SELECT lane FROM streams WHERE user_id = $1 FOR NO KEY UPDATE NOWAIT`, userID)
	b.Queue(settleSQL, userID, l.cfg.Lease)
	b.Queue(pendingForSQL, userID)
	results := l.cfg.Relaxed.SendBatch(ctx, b)
	defer results.Close()

	if _, err := results.Exec(); err != nil {
		return Debt{}, unavailable("settle lane", err)
	}
	debt, err := readDebt(results)
	if err == nil {
		err = results.Close()
	}
	if lockTimeout(err) {
		return Debt{Lane: Owed, Locked: true}, nil // jobs of others must not wait behind this one
	}
	return debt, unavailable("settle lane", err)
}

func readDebt(results pgx.BatchResults) (debt Debt, err error) {
	var before Lane
	switch err := results.QueryRow().Scan(&before); {
	case errors.Is(err, pgx.ErrNoRows): // the stream was erased
	case err != nil:
		return debt, err
	}
	debt.Lane, debt.Duplicate = before, before != Owed
	if err := results.QueryRow().Scan(&debt.Lane); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return debt, err
	}
	var pendingFor *time.Duration
	if err := results.QueryRow().Scan(&pendingFor); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return debt, err
	}
	if pendingFor != nil {
		debt.PendingFor = *pendingFor
	}
	return debt, nil
}

// reconcileSQL is one statement, so one snapshot: a lane and its job change in
// one transaction, so it finds only what is truly lost: a job that somebody
// cancelled or deleted, or one that has been running for longer than any may.
const reconcileSQL = `
INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at)
SELECT jsonb_build_object('user_id', s.user_id), '` + JobKind + `', '` + JobQueue + `', ` + jobMaxAttempts + `, now()
FROM streams s
WHERE s.lane = 1 AND NOT EXISTS (
	SELECT 1 FROM river_job j
	WHERE j.kind = '` + JobKind + `' AND j.args->>'user_id' = s.user_id
		AND (j.state IN ('available', 'pending', 'retryable', 'scheduled') OR j.state = 'running' AND j.attempted_at > now() - $1::interval))`

// Reconcile gives every owed lane that has no unfinished delivery job a new one,
// and returns how many. A job running for longer than longest counts as lost.
func (l *Log) Reconcile(ctx context.Context, longest time.Duration) (int64, error) {
	tag, err := l.cfg.Upkeep.Exec(ctx, reconcileSQL, longest)
	return tag.RowsAffected(), unavailable("reconcile lanes", err)
}

// retryLostRace repeats what Postgres has rolled back for losing a race.
func (l *Log) retryLostRace(do func() error) (err error) {
	for range commitTries {
		if err = do(); !lostRace(err) {
			return err
		}
	}
	return err
}
