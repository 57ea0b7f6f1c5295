package events

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Errors of a History.
var (
	// ErrHistoryChanged: the log is not the one that this replica knows. It was restored
	// from a backup, or another server took over that lacks the newest events.
	ErrHistoryChanged = errors.New("the log's history changed")
	// ErrReadOnly: the server is a standby, or refuses to write.
	ErrReadOnly = errors.New("the database is read-only: it is a standby, or default_transaction_read_only is on")
)

// historyTimeout bounds one look at a connection.
const historyTimeout = 5 * time.Second

// History is one history of the log, as one replica knows it.
//
// A log that lost its newest events gives out their seqs a second time, so a seq, an
// ack or a copy of an event is worth something only together with the history it
// belongs to. The epoch names the history. It is derived from whatever changes when
// history can have changed, so that nobody has to remember a command:
//
//   - the cluster's system identifier: another cluster
//   - its timeline: a standby was promoted, or a backup restored to a point in time
//   - the OIDs of the database and of the tables: a dump was restored, whole or in
//     part, or a copy of the database took its place
//   - meta.epoch: somebody, or a replica, says so (see below)
//
// The timeline is that of the position in Postgres's log. pg_control_checkpoint names
// the old one for seconds after a promotion.
//
// Some histories go back without any of these: a snapshot of the data directory, or a
// crash with synchronous_commit=off. A replica finds them by what it remembers: the
// position of Postgres's log never falls below one that was on disk, and the newest
// event that the replica knows is still there. If not, it renews meta.epoch itself.
//
// Check looks at each new connection and at every heartbeat. After the first
// difference it refuses every connection: the replica has to be built anew.
type History struct {
	epoch   string
	state   historyState // as first read
	form    historyForm
	changed chan struct{} // closed by change

	mu      sync.Mutex // guards all below
	cause   error      // nil until changed is closed
	flushed int64      // the highest position of Postgres's log that was seen on disk
	known   known
}

// known are the newest event that this replica committed and the newest one that
// another replica sent it; zero for none. If one is there, what was committed before
// it is there as well.
type known struct{ committed, received knownEvent }

// knownEvent identifies an event for ever: no two histories have the same one.
type knownEvent struct {
	user string
	seq  int64
	at   time.Time
}

// historyForm says which of Postgres's functions may be asked. Some services do not
// have them, or not for everybody.
type historyForm struct{ system, wal bool }

// historyState is what one look finds.
type historyState struct {
	metaEpoch, system, timeline string
	tables                      string // the OIDs of the database and of the tables
}

func (s historyState) epoch() string {
	sum := sha256.Sum256([]byte(strings.Join([]string{s.metaEpoch, s.system, s.timeline, s.tables}, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// OpenHistory reads which history the log has. The connection must have the settings
// of the durable pool. What keeps the promise from holding is logged once.
//
// Errors: ErrReadOnly, ErrUnavailable.
func OpenHistory(ctx context.Context, conn *pgx.Conn, logger *slog.Logger) (*History, error) {
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	h := &History{changed: make(chan struct{})}
	var found historyLook
	var err error
	for _, h.form = range []historyForm{{true, true}, {false, true}, {true, false}, {false, false}} {
		if found, err = h.look(ctx, conn, known{}); !notOffered(err) {
			break
		}
	}
	if err != nil {
		return nil, unavailable("read the log's history", err)
	}
	if found.readOnly {
		return nil, ErrReadOnly
	}
	if h.form != (historyForm{true, true}) {
		logger.Warn("this Postgres does not tell its system identifier, or its timeline: a failover is found by the newest message that a replica remembers, and by restante-migrate new-epoch",
			"system", h.form.system, "timeline", h.form.wal)
	}
	if found.synchronous == "off" {
		logger.Warn("synchronous_commit is off for this role or server; it is turned on for appends")
	}
	if found.fsync == "off" {
		logger.Warn("fsync is off: a crash of the machine loses messages that were answered 202")
	}
	h.state, h.epoch, h.flushed = found.historyState, found.epoch(), found.flushed
	return h, nil
}

// Epoch names the history.
func (h *History) Epoch() string { return h.epoch }

// Changed is closed when the log was found to have another history; Err says why.
func (h *History) Changed() <-chan struct{} { return h.changed }

// Err returns an ErrHistoryChanged that says how it was found; nil until then.
func (h *History) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

// change notes that the history changed and returns the error, the first one's.
func (h *History) change(how string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		h.cause = fmt.Errorf("%w: %s", ErrHistoryChanged, how)
		close(h.changed)
	}
	return h.cause
}

// hasCommitted notes the newest event that this replica committed. A nil History
// remembers nothing.
func (h *History) hasCommitted(e knownEvent) {
	if h != nil {
		h.mu.Lock()
		h.known.committed = e
		h.mu.Unlock()
	}
}

// hasReceived notes the newest event that another replica committed.
func (h *History) hasReceived(e *Entry) {
	if h != nil {
		h.mu.Lock()
		h.known.received = knownEvent{e.UserID, e.Seq, e.CreatedAt}
		h.mu.Unlock()
	}
}

// Check reports what keeps a connection from being used: ErrReadOnly,
// ErrHistoryChanged or ErrUnavailable.
func (h *History) Check(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	// Before the look: what is remembered while it runs, it need not see.
	h.mu.Lock()
	cause, flushed, known := h.cause, h.flushed, h.known
	h.mu.Unlock()
	if cause != nil {
		return cause
	}
	found, err := h.look(ctx, conn, known)
	switch {
	case notOffered(err):
		return h.change("Postgres does not tell its timeline any more: " + err.Error())
	case err != nil:
		return unavailable("check the log's history", err)
	case found.readOnly:
		return ErrReadOnly
	case found.historyState != h.state:
		return h.change(h.state.difference(found.historyState))
	case found.flushed < flushed:
		return h.wentBack(ctx, conn, fmt.Sprintf("Postgres's log is at %d and was at %d", found.flushed, flushed))
	case !found.kept:
		return h.wentBack(ctx, conn, "the newest message that this replica knows is gone")
	}
	h.mu.Lock()
	h.flushed = max(h.flushed, found.flushed)
	h.mu.Unlock()
	return nil
}

// difference says what changed, for the log of the replica.
func (s historyState) difference(found historyState) string {
	var parts []string
	for _, p := range []struct{ name, before, after string }{
		{"system identifier", s.system, found.system}, {"timeline", s.timeline, found.timeline},
		{"OIDs of the database and of its tables", s.tables, found.tables}, {"meta.epoch", s.metaEpoch, found.metaEpoch},
	} {
		if p.before != p.after {
			parts = append(parts, fmt.Sprintf("%s %s is now %s", p.name, p.before, p.after))
		}
	}
	return strings.Join(parts, ", ")
}

// renewEpochSQL: the first replica that finds the log gone back renews the epoch;
// the others, whatever they remember, see that it changed.
const renewEpochSQL = `UPDATE meta SET epoch = gen_random_uuid()::text WHERE epoch = $1`

// wentBack renews the epoch of a log that lost events without a trace. If that
// fails, the connection is refused, and the next one finds the same.
func (h *History) wentBack(ctx context.Context, conn *pgx.Conn, how string) error {
	b := &pgx.Batch{} // one transaction
	b.Queue(durablySQL)
	b.Queue(renewEpochSQL, h.state.metaEpoch)
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		return unavailable("renew the epoch, because "+how, err)
	}
	return h.change(how)
}

// historyLook is what a look finds.
type historyLook struct {
	historyState
	readOnly           bool
	synchronous, fsync string
	flushed            int64
	kept               bool // the known events are there, or were and are deleted by now
}

// historySQL: a standby may not be asked for a position, and all its transactions
// are read-only. The flushed position, because what was only written may be gone
// after a crash of the machine.
func (f historyForm) sql() string {
	system, timeline, flushed := `''`, `''`, `0::bigint`
	if f.system {
		system = `(SELECT system_identifier::text FROM pg_control_system())`
	}
	if f.wal {
		timeline = `CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END`
		flushed = `CASE WHEN pg_is_in_recovery() THEN 0 ELSE (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint END`
	}
	return `
SELECT current_setting('transaction_read_only')::bool, current_setting('synchronous_commit'), current_setting('fsync'),
	epoch, concat_ws(',', (SELECT oid FROM pg_database WHERE datname = current_database()),
		tableoid, 'streams'::regclass::oid, 'events'::regclass::oid), ` + system + `, ` + timeline + `, ` + flushed + `,
	NOT EXISTS (
		SELECT 1 FROM unnest($1::text[], $2::bigint[], $3::timestamptz[]) AS k(user_id, seq, created_at)
		LEFT JOIN streams s ON s.user_id = k.user_id
		LEFT JOIN events e ON e.user_id = k.user_id AND e.seq = k.seq
		WHERE s.head IS NULL OR s.head < k.seq OR e.created_at <> k.created_at)
FROM meta`
}

func (h *History) look(ctx context.Context, conn *pgx.Conn, known known) (l historyLook, err error) {
	users, seqs, times := []string{}, []int64{}, []time.Time{}
	for _, e := range []knownEvent{known.committed, known.received} {
		if e.seq > 0 {
			users, seqs, times = append(users, e.user), append(seqs, e.seq), append(times, e.at)
		}
	}
	err = conn.QueryRow(ctx, h.form.sql(), users, seqs, times).Scan(
		&l.readOnly, &l.synchronous, &l.fsync, &l.metaEpoch, &l.tables, &l.system, &l.timeline, &l.flushed, &l.kept)
	return l, err
}

// SQLSTATEs of a function that a service does not offer.
var functionNotOffered = []string{"42501", "42883", "0A000"} // insufficient_privilege, undefined_function, feature_not_supported

func notOffered(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && slices.Contains(functionNotOffered, pg.Code)
}
