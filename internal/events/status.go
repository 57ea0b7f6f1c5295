package events

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

const statusTimeout = 5 * time.Second

// Status tells what became of a message. ErrNotFound: the user never had that
// many messages, or the message was deleted after the retention.
func (l *Log) Status(ctx context.Context, userID string, seq int64) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	var (
		head, acked, trimmed int64
		created, expires     *time.Time
		overdue, inRange     *bool
	)
	err := l.cfg.Relaxed.QueryRow(ctx, `
		SELECT s.head, s.acked, s.trimmed, e.created_at, e.expires_at, e.expires_at <= now(),
			EXISTS (SELECT 1 FROM expired_ranges x WHERE x.user_id = e.user_id AND e.seq BETWEEN x.from_seq AND x.to_seq)
		FROM streams s LEFT JOIN events e ON e.user_id = s.user_id AND e.seq = $2
		WHERE s.user_id = $1`, userID, seq).Scan(&head, &acked, &trimmed, &created, &expires, &overdue, &inRange)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && (seq < 1 || seq > head || seq <= trimmed):
		return Status{}, ErrNotFound
	case err != nil:
		return Status{}, unavailable("read status", err)
	case created == nil: // trim deletes an expired event at once, and keeps a delivered one
		return Status{State: Expired}, nil
	}
	status := Status{State: Accepted, AcceptedAt: *created, ExpiresAt: *expires}
	switch {
	case *inRange:
		status.State = Expired
	case seq <= acked:
		status.State = Delivered
	case *overdue:
		status.State = Expired
	}
	return status, nil
}

// Stream tells what is known about a user. ErrNotFound: nobody has posted to or
// connected as this user yet.
func (l *Log) Stream(ctx context.Context, userID string) (Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	b := &pgx.Batch{}
	b.Queue(`SELECT head, acked FROM streams WHERE user_id = $1`, userID)
	b.Queue(`SELECT x.session_id, x.replica_id, x.transport, x.connected_at
		FROM sessions x JOIN replicas r ON r.replica_id = x.replica_id
		WHERE x.user_id = $1 AND r.heartbeat_at > now() - $2::interval
		ORDER BY x.connected_at, x.session_id LIMIT 1000`, userID, l.cfg.Lease)
	results := l.cfg.Relaxed.SendBatch(ctx, b)
	defer results.Close()
	var s Stream
	if err := results.QueryRow().Scan(&s.Head, &s.Acked); errors.Is(err, pgx.ErrNoRows) {
		return Stream{}, ErrNotFound
	} else if err != nil {
		return Stream{}, unavailable("read stream", err)
	}
	rows, err := results.Query()
	if err != nil {
		return Stream{}, unavailable("read stream", err)
	}
	s.Sessions, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Presence])
	return s, unavailable("read stream", err)
}
