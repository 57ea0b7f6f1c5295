package events

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Beat is what a replica learns from its own heartbeat.
type Beat struct {
	Lapsed bool // the replica's lease was missing or nearly over: attach all sessions again
	Peers  int  // other replicas alive
}

const beatSQL = `
WITH old AS (SELECT heartbeat_at FROM replicas WHERE replica_id = $1),
up AS (
	INSERT INTO replicas (replica_id, address) VALUES ($1, $2)
	ON CONFLICT (replica_id) DO UPDATE SET heartbeat_at = clock_timestamp())
SELECT coalesce((SELECT heartbeat_at < now() - $3::interval * 2 / 3 FROM old), true),
	(SELECT count(*) FROM replicas WHERE replica_id <> $1 AND heartbeat_at > now() - $3::interval)`

// Heartbeat renews a replica's lease, on a connection of the caller's so that a
// busy pool cannot hold it up. A replica that finds itself lapsed (Postgres
// crashed and emptied the unlogged tables, or the replica stood still) has been
// taken for dead: delivery jobs may have parked its users. It counts as lapsed
// after two thirds of the lease: a job that looks while this heartbeat is on its
// way still sees the old one, so the heartbeat must take less than the last third.
//
// It looks at the log's history first: a connection may outlive it, when a dump is
// restored into the same database.
func (l *Log) Heartbeat(ctx context.Context, conn *pgx.Conn, replicaID, address string) (Beat, error) {
	var b Beat
	if l.cfg.History != nil {
		if err := l.cfg.History.Check(ctx, conn); err != nil {
			return b, err
		}
	}
	err := conn.QueryRow(ctx, beatSQL, replicaID, address, l.cfg.Lease).Scan(&b.Lapsed, &b.Peers)
	return b, unavailable("heartbeat", err)
}

// Leave ends a replica's lease at once: the last thing an orderly stop does.
func (l *Log) Leave(ctx context.Context, replicaID string) error {
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM sessions WHERE replica_id = $1`, replicaID)
	b.Queue(`DELETE FROM replicas WHERE replica_id = $1`, replicaID)
	return unavailable("leave", l.cfg.Relaxed.SendBatch(ctx, b).Close())
}

// Attached returns the sessions that the database has for a replica.
func (l *Log) Attached(ctx context.Context, replicaID string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	rows, err := l.cfg.Relaxed.Query(ctx, `SELECT session_id FROM sessions WHERE replica_id = $1`, replicaID)
	if err != nil {
		return nil, unavailable("list sessions", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return ids, unavailable("list sessions", err)
}

const owedSQL = `
SELECT s.user_id, s.acked, s.head FROM sessions x JOIN streams s ON s.user_id = x.user_id
WHERE x.replica_id = $1 AND s.lane = 1 AND s.head > s.acked`

// Owed returns where delivery stands for the users who are connected to a replica
// and have something pending: everybody whom a lost wake may have left without it.
// It goes by the index of owed lanes, so sessions without traffic cost it nothing.
func (l *Log) Owed(ctx context.Context, replicaID string) (map[string]Position, error) {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	rows, err := l.cfg.Upkeep.Query(ctx, owedSQL, replicaID)
	if err != nil {
		return nil, unavailable("sweep owed lanes", err)
	}
	owed := map[string]Position{}
	var user string
	var p Position
	_, err = pgx.ForEachRow(rows, []any{&user, &p.Acked, &p.Head}, func() error {
		owed[user] = p
		return nil
	})
	return owed, unavailable("sweep owed lanes", err)
}

// Sighting is one session's view of its user's stream, for Behind.
type Sighting struct {
	UserID    string
	Position  int64 // how far the session has read
	Confirmed int64 // how far its client has confirmed
}

const behindSQL = `
SELECT s.user_id, s.head FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS a(user_id, position, confirmed)
JOIN streams s ON s.user_id = a.user_id
WHERE s.head > a.position OR s.acked < a.confirmed OR s.confirmed < a.confirmed`

// Behind returns the users among sightings whose stream has grown beyond a
// position, or whose acked position is less than what was confirmed, with their
// heads (6 to 18 ms for 10,000 users). Whatever wake or ack was lost, it is found
// here.
func (l *Log) Behind(ctx context.Context, sightings []Sighting) ([]Head, error) {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	users, positions, confirmed := make([]string, len(sightings)), make([]int64, len(sightings)), make([]int64, len(sightings))
	for i, s := range sightings {
		users[i], positions[i], confirmed[i] = s.UserID, s.Position, s.Confirmed
	}
	rows, err := l.cfg.Relaxed.Query(ctx, behindSQL, users, positions, confirmed)
	if err != nil {
		return nil, unavailable("sweep", err)
	}
	heads, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Head])
	return heads, unavailable("sweep", err)
}

// reapSQL: a replica inserts its row before it attaches its first session, so a
// session without a replica is one that nobody will ever serve again.
const reapSQL = `
WITH dead AS (DELETE FROM replicas WHERE heartbeat_at < now() - $1::interval RETURNING replica_id),
gone AS (
	DELETE FROM sessions x WHERE x.replica_id IN (SELECT replica_id FROM dead)
		OR NOT EXISTS (SELECT 1 FROM replicas r WHERE r.replica_id = x.replica_id)),
freed AS (
	UPDATE river_job j SET state = 'available', scheduled_at = now()
	WHERE j.state = 'running' AND NOT EXISTS (
		SELECT 1 FROM replicas r
		WHERE r.replica_id = j.attempted_by[array_length(j.attempted_by, 1)] AND r.heartbeat_at >= now() - $1::interval)
	RETURNING 1)
SELECT (SELECT count(*) FROM dead), (SELECT count(*) FROM freed)`

// Reap removes replicas whose lease has run out, with their sessions, and puts
// the jobs they were running back, which River itself would do only after a
// minute. A replica that is alive after all notices at its next heartbeat; a job
// that runs twice finds its lane settled.
func (l *Log) Reap(ctx context.Context) (replicas, jobs int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	defer cancel()
	err = l.cfg.Upkeep.QueryRow(ctx, reapSQL, l.cfg.Lease).Scan(&replicas, &jobs)
	return replicas, jobs, unavailable("reap replicas", err)
}
