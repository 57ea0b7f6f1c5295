package events

import (
	"encoding/json"
	"errors"
	"time"
)

// Errors a caller may branch on.
var (
	// ErrOverloaded: the append queue is full. Nothing was written; try again later.
	ErrOverloaded = errors.New("append queue is full")
	// ErrUnavailable: Postgres could not be reached or gave up. Nothing was written.
	ErrUnavailable = errors.New("the event log is unavailable")
	// ErrOutcomeUnknown: the connection was lost while committing. The message
	// may or may not be in the log; only a retry with the same idempotency key is safe.
	ErrOutcomeUnknown = errors.New("outcome of the append is unknown")
	// ErrKeyReused: the idempotency key was used before with another message.
	ErrKeyReused = errors.New("idempotency key was used with another message")
	// ErrTooManyPending: so many messages of this user are pending that no more are
	// taken; see TooManyPendingError.
	ErrTooManyPending = errors.New("too many messages of this user are pending")
	// ErrNotFound: no such user or message.
	ErrNotFound = errors.New("not found")
)

// Message is what a publisher posts for one user. The caller has validated it:
// the log takes every byte as it comes.
type Message struct {
	UserID      string
	Payload     json.RawMessage // one JSON value, stored and sent byte for byte
	Type        string          // optional
	Key         string          // optional idempotency key, unique per user and publisher
	Publisher   string          // who posted it
	Credential  string          // whose share of the commits it takes; Publisher when empty
	Traceparent string          // optional W3C trace context, carried to the client
	TTL         time.Duration   // how long it may stay undelivered; positive
}

// Receipt is the log's answer to one message.
type Receipt struct {
	Seq        int64
	AcceptedAt time.Time
	ExpiresAt  time.Time
	Repeated   bool  // the idempotency key had been used with the same message: this is the first result
	Err        error // ErrKeyReused, ErrTooManyPending or a data error of this message alone; then it is not in the log
}

// Event is a message in its user's log.
type Event struct {
	Seq         int64
	Payload     json.RawMessage
	Type        string
	Traceparent string
	CreatedAt   time.Time
	ExpiresAt   time.Time
}

// Entry is an event and whose it is.
type Entry struct {
	UserID string
	Event
}

// Page is what a reader gets: the unexpired events after a position, in order.
// A seq that is missing between two events, or between the last event and
// Through, has expired or was trimmed: there is nothing left to read there.
type Page struct {
	Events  []Event
	Through int64 // every seq up to here has been looked at; never less than the position asked for
	Head    int64 // of the stream, if the page was read from the log; there is more if Through is less
}

// State of one message, as its publisher asks for it.
type State string

// The states of a message.
const (
	Accepted  State = "accepted"  // on disk, no client has confirmed it yet
	Delivered State = "delivered" // a client confirmed it
	Expired   State = "expired"   // nobody confirmed it in time
)

// Status is what GET of a message answers. The times of an expired message are
// zero once it is deleted.
type Status struct {
	State      State
	AcceptedAt time.Time
	ExpiresAt  time.Time
}

// Stream is what is known about one user.
type Stream struct {
	Head     int64 // last seq appended, 0 for none
	Acked    int64 // every seq up to here was confirmed or has expired
	Sessions []Presence
}

// Presence is one live connection of a user.
type Presence struct {
	SessionID   string
	ReplicaID   string
	Transport   string
	ConnectedAt time.Time
}
