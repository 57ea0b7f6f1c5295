package hub

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"restante/internal/events"
)

// Errors of Open that a caller may branch on.
var (
	// ErrDraining: this replica is stopping; another one will serve the client.
	ErrDraining = errors.New("replica is stopping")
	// ErrTooManySessions: the user has MaxPerUser sessions on this replica.
	ErrTooManySessions = errors.New("too many sessions of one user")
)

// Log is what a session needs of the event log.
type Log interface {
	ReadUpTo(ctx context.Context, userID string, after, knownHead int64, maxBytes int) (events.Page, error)
	Ack(userID string, seq int64)
	Watch(userID string)
	Unwatch(userID string)
}

// Registry makes sessions known to the other replicas.
type Registry interface {
	Attach(ctx context.Context, sessions ...events.Session) (map[string]events.Position, error)
	Detach(ctx context.Context, sessionIDs ...string) error
	Attached(ctx context.Context, replicaID string) ([]string, error)
	Owed(ctx context.Context, replicaID string) (map[string]events.Position, error)
	Behind(ctx context.Context, sightings []events.Sighting) ([]events.Head, error)
	Leave(ctx context.Context, replicaID string) error
}

// Config of a Hub. All durations must be positive unless it says otherwise.
type Config struct {
	ReplicaID string // new at every start: with a fixed one, a dead process's sessions would live again
	Epoch     string // the log's incarnation

	// Beat renews the replica's lease once; it is called every quarter of Lease
	// and must give up within another quarter.
	Beat  func(context.Context) (events.Beat, error)
	Lease time.Duration
	// OnPeers, if set, is told how many other replicas are alive.
	OnPeers func(int)

	SweepEvery     time.Duration // in which all sessions are looked at once, and owed lanes more often; 0 turns the sweep off
	PingEvery      time.Duration // how long a connection may be silent before it is pinged
	PongTimeout    time.Duration // how long the answer to a ping may take
	AckTimeout     time.Duration // how long a client that was sent messages may confirm nothing
	MaxAge         time.Duration // of a session, give or take a tenth
	MaxPerUser     int           // sessions of one user on this replica
	WindowMessages int           // unconfirmed messages per session
	WindowBytes    int           // unconfirmed payload bytes per session

	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Hub is the set of sessions of one replica. All methods are safe for concurrent use.
type Hub struct {
	cfg      Config
	log      Log
	registry Registry
	metrics  metrics

	// life ends when Close gives up on what is still delivering: sessions live
	// longer than the requests that opened them.
	life    context.Context
	endLife context.CancelFunc
	pumps   sync.WaitGroup
	lapsed  chan struct{} // has room for one: the lease had lapsed at a heartbeat

	mu       sync.RWMutex // guards all below
	users    map[string][]*Session
	sessions map[string]*Session
	departed []string // ids of ended sessions that are still to be detached
	draining bool
	ready    bool
}

// New makes a Hub. Run keeps it; Close ends it.
func New(cfg Config, log Log, registry Registry) *Hub {
	life, end := context.WithCancel(context.Background())
	return &Hub{
		cfg: cfg, log: log, registry: registry, metrics: newMetrics(cfg.Metrics),
		life: life, endLife: end, lapsed: make(chan struct{}, 1),
		users: map[string][]*Session{}, sessions: map[string]*Session{},
	}
}

// Ready reports whether the replica holds its lease and takes new sessions.
func (h *Hub) Ready() error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	switch {
	case h.draining:
		return ErrDraining
	case !h.ready:
		return errors.New("no heartbeat has succeeded yet")
	}
	return nil
}

// Draining reports whether the replica is stopping, and opens no session any more.
func (h *Hub) Draining() bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.draining
}

// Epoch is the log's incarnation, for clients that resume.
func (h *Hub) Epoch() string { return h.cfg.Epoch }

// PingEvery is how long a session sends nothing at most, for clients that watch
// over their connection.
func (h *Hub) PingEvery() time.Duration { return h.cfg.PingEvery }

// Wake sources, as the metric has them.
const (
	FromCommit  = "local"   // an append of this replica
	FromNotify  = "notify"  // another replica's notification
	FromJob     = "job"     // a delivery job that ran here
	fromConnect = "connect" // something was pending when the session began
	fromResync  = "resync"  // a look after notifications, or the lease, may have been lost
	fromSweep   = "sweep"   // the look from time to time
)

// Wake tells the sessions of some users that their streams have grown. A head of
// 0 says only that it is time to look, and to hand in confirmed positions again.
// It does not block.
func (h *Hub) Wake(source string, heads []events.Head) {
	woken := 0
	h.mu.RLock()
	for _, head := range heads {
		for _, s := range h.users[head.UserID] {
			s.wake(head.Seq)
			woken++
		}
	}
	h.mu.RUnlock()
	if woken > 0 {
		h.metrics.wakes.WithLabelValues(source).Add(float64(woken))
	}
}

// register makes a session reachable for wakes.
func (h *Hub) register(s *Session) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.draining:
		return ErrDraining
	case len(h.users[s.userID]) >= h.cfg.MaxPerUser:
		return ErrTooManySessions
	}
	if len(h.users[s.userID]) == 0 {
		h.log.Watch(s.userID)
	}
	h.users[s.userID] = append(h.users[s.userID], s)
	h.sessions[s.id] = s
	return nil
}

// unregister forgets a session and leaves its row to the upkeep.
func (h *Hub) unregister(s *Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sessions[s.id] != s {
		return
	}
	delete(h.sessions, s.id)
	h.departed = append(h.departed, s.id)
	left := make([]*Session, 0, len(h.users[s.userID]))
	for _, other := range h.users[s.userID] {
		if other != s {
			left = append(left, other)
		}
	}
	if len(left) > 0 {
		h.users[s.userID] = left
		return
	}
	delete(h.users, s.userID)
	h.log.Unwatch(s.userID)
}

// all returns the sessions of this moment.
func (h *Hub) all() []*Session { return h.appendAll(nil) }

// appendAll appends all sessions to a list, for who asks often.
func (h *Hub) appendAll(list []*Session) []*Session {
	h.mu.RLock()
	defer h.mu.RUnlock()
	list = slices.Grow(list, len(h.sessions))
	for _, s := range h.sessions {
		list = append(list, s)
	}
	return list
}
