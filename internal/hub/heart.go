package hub

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"restante/internal/events"
)

// Heart renews a replica's lease on a connection of its own: a pool that is busy
// must not make the replica look dead.
type Heart struct {
	replicaID string
	address   string
	connect   func(context.Context) (*pgx.Conn, error)
	renew     func(ctx context.Context, conn *pgx.Conn, replicaID, address string) (events.Beat, error)

	mu    sync.Mutex // guards all below, and makes beats take turns
	conn  *pgx.Conn  // nil until the first beat, and after a failed one
	doubt bool       // the last beat's answer was lost
}

// NewHeart makes a Heart; renew is events.Log's Heartbeat.
func NewHeart(replicaID, address string, connect func(context.Context) (*pgx.Conn, error),
	renew func(context.Context, *pgx.Conn, string, string) (events.Beat, error)) *Heart {
	return &Heart{replicaID: replicaID, address: address, connect: connect, renew: renew}
}

// Beat renews the lease once, connecting first if need be. A beat whose answer was
// lost may have renewed a lease that had lapsed, and nobody would ever be told: the
// next one says so. Attaching sessions that were attached all the while does no harm.
func (h *Heart) Beat(ctx context.Context) (events.Beat, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn == nil {
		conn, err := h.connect(ctx)
		if err != nil {
			return events.Beat{}, err
		}
		h.conn = conn
	}
	beat, err := h.renew(ctx, h.conn, h.replicaID, h.address)
	if err != nil {
		closeConn(h.conn)
		h.conn, h.doubt = nil, true
		return events.Beat{}, err
	}
	beat.Lapsed = beat.Lapsed || h.doubt
	h.doubt = false
	return beat, nil
}

// Stop closes the connection.
func (h *Heart) Stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	closeConn(h.conn)
	h.conn = nil
}
