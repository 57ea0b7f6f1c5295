package torture

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const faultTimeout = 20 * time.Second

// exec runs a statement of a fault. Losing a deadlock or waiting too long for a
// lock is the fault's failure, not the gateway's.
func (w *world) exec(sql string, args ...any) int {
	ctx, cancel := context.WithTimeout(context.Background(), faultTimeout)
	defer cancel()
	tag, err := w.pool.Exec(ctx, sql, args...)
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return int(tag.RowsAffected())
	case errors.As(err, &pg) && (pg.Code == "40P01" || pg.Code == "55P03"):
		return 0
	}
	w.violate("a fault could not be made: %v", err)
	return 0
}

const lapseSQL = `UPDATE replicas SET heartbeat_at = now() - interval '1 hour' WHERE replica_id = $1`

// loseLease lets a replica's lease lapse while its sessions live: for a moment,
// or for as long as its heartbeats do not get through.
func loseLease(w *world, r *rand.Rand) {
	replica := w.any(r)
	if oneIn(r, 2) {
		w.exec(lapseSQL, replica.ID)
		return
	}
	if release := w.stopHeart(replica); release != nil {
		pause(between(r, 200*time.Millisecond, 2*time.Second))
		release()
	}
}

// stopHeart lets a replica's lease lapse and keeps its heartbeats out until
// release is called. It is nil if the replica has no lease at the moment.
func (w *world) stopHeart(r *replica) (release func()) {
	if w.exec(lapseSQL, r.ID) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), faultTimeout)
	tx, err := w.pool.Begin(ctx)
	if err == nil {
		_, err = tx.Exec(ctx, `SELECT 1 FROM replicas WHERE replica_id = $1 FOR UPDATE`, r.ID)
	}
	if err != nil {
		w.violate("a heartbeat could not be stopped: %v", err)
	}
	return func() {
		_ = tx.Rollback(ctx) // it has changed nothing
		cancel()
	}
}

// delayCommits holds up transactions between the locks they have taken and their
// commit: those that append, arm a lane, or end a job.
func delayCommits(w *world, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), faultTimeout)
	defer cancel()
	table := []string{"events", "river_job", "sessions"}[r.IntN(3)]
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE `+table+` IN SHARE MODE`); err != nil {
			return err
		}
		pause(between(r, 10*time.Millisecond, 150*time.Millisecond))
		return nil
	})
	if err != nil {
		w.violate("commits could not be delayed: %v", err)
	}
}

// reapLiving does to a living replica what the reaper does to a dead one.
func reapLiving(w *world, r *rand.Rand) {
	w.exec(`WITH dead AS (DELETE FROM replicas WHERE replica_id = $1 RETURNING replica_id)
		DELETE FROM sessions WHERE replica_id IN (SELECT replica_id FROM dead)`, w.any(r).ID)
}

// emptyUnlogged leaves the unlogged tables as a crash of Postgres does.
func emptyUnlogged(w *world, _ *rand.Rand) {
	w.starting.Lock()
	defer w.starting.Unlock()
	w.exec(`TRUNCATE replicas, sessions, tokens`)
}

// killBackends breaks a few of the replicas' connections, whatever they carry.
func killBackends(w *world, r *rand.Rand) {
	w.starting.Lock()
	defer w.starting.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), faultTimeout)
	defer cancel()
	rows, _ := w.pool.Query(ctx, `SELECT pid FROM pg_stat_activity
		WHERE datname = current_database() AND application_name LIKE 'restante%' ORDER BY pid`)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil || len(pids) == 0 {
		w.violate("no backends to kill: %v", err)
		return
	}
	for range 1 + r.IntN(4) {
		w.exec(`SELECT pg_terminate_backend($1)`, pids[r.IntN(len(pids))])
		w.count("backends killed", 1)
	}
}

// holdStream delays whoever wants to change a user's stream, and with it every
// batch that the user is in. Now and then it kills those who wait, in the middle
// of their transactions, or waits longer than they do.
func holdStream(w *world, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(context.Background(), faultTimeout)
	defer cancel()
	held := between(r, 50*time.Millisecond, 300*time.Millisecond)
	killWaiting := oneIn(r, 4)
	if oneIn(r, 40) { // longer than a message waits for it
		held = 5500 * time.Millisecond
	}
	users := []string{w.users[r.IntN(len(w.users))].name}
	if oneIn(r, 8) { // an application, or somebody's psql
		for len(users) < len(w.users)/4 {
			users = append(users, w.users[r.IntN(len(w.users))].name)
		}
	}
	defer w.holding(users)()
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT 1 FROM streams WHERE user_id = ANY($1) ORDER BY user_id FOR UPDATE`, users); err != nil {
			return err
		}
		pause(held)
		if !killWaiting {
			return nil
		}
		w.starting.Lock()
		defer w.starting.Unlock()
		tag, err := tx.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid)) AND application_name LIKE 'restante%'`)
		w.count("transactions killed while they waited", int(tag.RowsAffected()))
		return err
	})
	if err != nil {
		w.violate("a stream could not be held: %v", err)
	}
}

// holding notes that users' streams are held, and returns what ends that.
func (w *world) holding(users []string) (end func()) {
	note := func(n int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, user := range users {
			w.held[user] = heldStream{by: w.held[user].by + n, until: time.Now()}
		}
	}
	note(1)
	return func() { note(-1) }
}

// heldStream is a stream that faults have held: some do still, or the last one did
// until a moment ago.
type heldStream struct {
	by    int
	until time.Time
}

// heldSince reports whether a fault has held one of the streams since then.
func (w *world) heldSince(since time.Time, users []*user) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range users {
		if h := w.held[u.name]; h.by > 0 || h.until.After(since) {
			return true
		}
	}
	return false
}

// forgetAcks takes back acks as if their write had been lost, which
// synchronous_commit=off allows in a crash. A lane that is idle became so by a
// later write than its ack, so it cannot have survived it.
func forgetAcks(w *world, r *rand.Rand) { w.forget(w.users[r.IntN(len(w.users))], 1+r.IntN(5)) }

func (w *world) forget(u *user, acks int) {
	n := w.exec(`UPDATE streams SET acked = greatest(trimmed, acked - $2) WHERE user_id = $1 AND lane <> 0 AND acked > trimmed`, u.name, acks)
	w.count("acks forgotten", n)
}

// duplicateJob copies an unfinished delivery job, or invents one for a user who
// may not be owed any.
func duplicateJob(w *world, r *rand.Rand) {
	if oneIn(r, 3) {
		w.exec(`INSERT INTO river_job (args, kind, queue, max_attempts) VALUES (jsonb_build_object('user_id', $1::text), 'deliver', 'deliver', 30000)`,
			w.users[r.IntN(len(w.users))].name)
		return
	}
	if job, _, ok := w.someJob(r); ok {
		w.exec(`INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at, metadata)
			SELECT args, kind, queue, max_attempts, scheduled_at, metadata FROM river_job WHERE id = $1`, job)
	}
}

// loseJob cancels or deletes a delivery job as an operator may: by the state, by
// a request that River obeys when the job has run, or with its row.
func loseJob(w *world, r *rand.Rand) {
	job, user, ok := w.someJob(r)
	if !ok || !w.tampers.mark(user, job) {
		return
	}
	switch r.IntN(3) {
	case 0:
		w.exec(`UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = $1 AND finalized_at IS NULL`, job)
	case 1:
		w.exec(`UPDATE river_job SET metadata = metadata || jsonb_build_object('cancel_attempted_at', now()),
				state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END,
				finalized_at = CASE WHEN state = 'running' THEN NULL ELSE now() END
			WHERE id = $1 AND finalized_at IS NULL`, job)
	default:
		w.exec(`DELETE FROM river_job WHERE id = $1`, job)
	}
}

// someJob finds an unfinished delivery job.
func (w *world) someJob(r *rand.Rand) (job int64, user string, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), faultTimeout)
	defer cancel()
	err := w.pool.QueryRow(ctx, `SELECT id, args->>'user_id' FROM river_job
		WHERE kind = 'deliver' AND finalized_at IS NULL ORDER BY hashint8(id # $1::bigint) LIMIT 1`, r.Int64()).Scan(&job, &user)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		w.violate("no job could be looked for: %v", err)
	}
	return job, user, err == nil
}
