package events

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// A statement that carries a position or a message into the log, or an event out of it,
// is guarded: in another history it fails instead, and changes nothing. Between two
// heartbeats a dump may be restored into the same database, under open connections.
//
// Use: guardSQL + "$n" + guardEndSQL is true, or an error; $n is History.guard(). As it
// depends on no row it is looked up once per statement. The index keeps it from being
// a scan, which the pools have switched off and would count as expensive.
const (
	guardSQL    = `(SELECT true FROM generate_series(1, CASE WHEN `
	guardEndSQL = `::text IN ('', (SELECT concat_ws(',', epoch, tableoid, 'streams'::regclass::oid, 'events'::regclass::oid)
	FROM meta WHERE only_row)) THEN 1 ELSE 2 END))`

	// guardFailed is cardinality_violation: a second row where one may be.
	guardFailed = "21000"
)

// guard is the argument of a guarded statement; "" lets everything pass.
func (h *History) guard() string {
	if h == nil {
		return ""
	}
	_, tables, _ := strings.Cut(h.state.tables, ",") // without the database
	return h.state.metaEpoch + "," + tables
}

// meets looks at the error of a guarded statement.
func (h *History) meets(err error) {
	var pg *pgconn.PgError
	if h != nil && errors.As(err, &pg) && pg.Code == guardFailed {
		_ = h.change("a statement found other tables or another meta.epoch") // err says enough to its caller
	}
}
