package events

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// unavailable wraps a database error so that callers can tell it from a wrong
// request; nil stays nil, and the caller's own cancellation stays what it is.
func unavailable(what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
}

// refused reports whether Postgres itself rejected the statement, which proves
// that it was rolled back. A FATAL (the backend was terminated) proves nothing:
// it may follow the commit.
func refused(err error) (*pgconn.PgError, bool) {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.SeverityUnlocalized == "ERROR" {
		return pg, true
	}
	return nil, false
}

// SQLSTATEs, https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	deadlockDetected     = "40P01"
	serializationFailure = "40001"
	lockNotAvailable     = "55P03"
)

// lostRace reports an error that a repetition of the same statement cures.
func lostRace(err error) bool {
	pg, ok := refused(err)
	return ok && (pg.Code == deadlockDetected || pg.Code == serializationFailure)
}

// lockTimeout reports that somebody else held on to a row for too long.
func lockTimeout(err error) bool {
	pg, ok := refused(err)
	return ok && pg.Code == lockNotAvailable
}

// badData reports that the values, not the circumstances, were refused:
// SQLSTATE classes 22 (data exception) and 23 (integrity constraint).
func badData(err error) bool {
	pg, ok := refused(err)
	return ok && (strings.HasPrefix(pg.Code, "22") || strings.HasPrefix(pg.Code, "23"))
}
