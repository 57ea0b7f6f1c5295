package hub

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"restante/internal/events"
)

const (
	tickEvery      = time.Second
	sweepLooks     = 5 // per sweep of all sessions: one at all, the others at owed lanes
	detachEvery    = 200 * time.Millisecond
	leaveTimeout   = 2 * time.Second
	presenceLeases = 2    // in leases: how often this replica's session rows are compared with its sessions
	attachChunk    = 500  // sessions attached again per transaction
	sweepChunk     = 1000 // sessions compared with the log per statement
	attachFailures = 3    // in a row, after which the rest is not tried one by one
)

// Run keeps the hub's sessions until ctx ends: heartbeats, pings, sweeps, and the
// sessions' rows in the database.
func (h *Hub) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { h.beats(ctx); return nil })
	g.Go(func() error { h.keepAttached(ctx); return nil })
	g.Go(func() error { h.ticks(ctx); return nil })
	g.Go(func() error { every(ctx, detachEvery, func() { h.detachDeparted(ctx) }); return nil })
	if h.cfg.SweepEvery > 0 {
		g.Go(func() error { h.sweeps(ctx); return nil })
	}
	return g.Wait()
}

func every(ctx context.Context, period time.Duration, do func()) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

// ticks ends sessions that are too old, silent or do not confirm, and pings those
// that have been quiet for long.
func (h *Hub) ticks(ctx context.Context) {
	var sessions []*Session
	every(ctx, tickEvery, func() {
		sessions = h.appendAll(sessions[:0])
		now := time.Now()
		for _, s := range sessions {
			s.tick(now)
		}
		clear(sessions) // the list must not keep those that end
	})
}

func (s *Session) tick(now time.Time) {
	switch why, ping := s.inspect(now); {
	case why != nil:
		s.End(*why)
	case ping != nil:
		if err := ping.Ping(); err != nil {
			s.End(Unreachable)
		}
	}
}

// inspect decides what a session's age and silence call for: its end, a ping, or
// nothing.
func (s *Session) inspect(now time.Time) (why *Closing, ping Transport) {
	cfg := &s.hub.cfg
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.ended {
		return nil, nil
	}
	since, waiting := s.window.stalledSince()
	switch {
	case s.blocked && now.Sub(since) > cfg.AckTimeout:
		return &Stalled, nil
	case waiting && now.Sub(since) > cfg.AckTimeout:
		return &noAck, nil
	case !waiting && !s.blocked && !s.pingedAt.IsZero() && now.Sub(s.pingedAt) > cfg.PongTimeout:
		return &Unreachable, nil
	case now.After(s.expiresAt):
		return &tooOld, nil
	case s.blocked, s.delivering, !s.pingedAt.IsZero(): // progress, or an answer, is waited for
	case now.Sub(s.sentAt) >= cfg.PingEvery, !waiting && now.Sub(s.heardAt) >= cfg.PingEvery:
		s.sentAt = now
		s.pingedAt = now
		return nil, s.conn
	}
	return nil, nil
}

// sweeps compares all sessions with the log once per period, and in between those
// whose lane is owed.
func (h *Hub) sweeps(ctx context.Context) {
	looks := 0
	every(ctx, max(h.cfg.SweepEvery/sweepLooks, time.Millisecond), func() {
		if looks++; looks%sweepLooks == 0 {
			h.sweep(ctx)
		} else {
			h.sweepOwed(ctx)
		}
	})
}

// sweepOwed wakes the sessions that are behind on what is pending. Nearly all that
// are behind are among them, for next to nothing: 10,000 sessions without traffic
// cost Postgres 0.2 ms, and a look at all of them 18. What costs is lanes that are
// owed, whosever they are: 25 ms if they are 100,000.
func (h *Hub) sweepOwed(ctx context.Context) {
	h.mu.RLock()
	nobody := len(h.sessions) == 0
	h.mu.RUnlock()
	if nobody {
		return
	}
	start := time.Now()
	owed, err := h.registry.Owed(ctx, h.cfg.ReplicaID)
	h.swept(ctx, start, err)
	if len(owed) == 0 {
		return
	}
	var behind []events.Head
	for _, s := range h.all() {
		at, ok := owed[s.userID]
		if !ok {
			continue
		}
		s.mu.Lock()
		if s.attached && !s.ended && (at.Head > s.position || at.Acked < s.confirmed) {
			behind = append(behind, events.Head{UserID: s.userID})
		}
		s.mu.Unlock()
	}
	h.metrics.sweepFound.Add(float64(len(behind)))
	h.Wake(fromSweep, behind)
}

// sweep wakes the sessions that are behind for whatever reason: a lane that
// another session of the user has confirmed is idle, and owes nothing to one that
// has missed its wake.
func (h *Hub) sweep(ctx context.Context) {
	h.metrics.sweepFound.Add(float64(h.wakeBehind(ctx, fromSweep)))
}

// swept accounts for a sweep.
func (h *Hub) swept(ctx context.Context, start time.Time, err error) {
	h.metrics.sweepSeconds.Observe(time.Since(start).Seconds())
	if err != nil && ctx.Err() == nil {
		h.cfg.Logger.Warn("sweep failed; the next one repeats it", "err", err)
	}
}

// Resync wakes the sessions that are behind, after notifications may have been
// missed.
func (h *Hub) Resync(ctx context.Context) { h.wakeBehind(ctx, fromResync) }

// wakeBehind finds the sessions that have fallen behind the log, or whose
// confirmed position has not arrived there, and wakes them.
func (h *Hub) wakeBehind(ctx context.Context, source string) (found int) {
	sessions := h.all()
	if len(sessions) == 0 {
		return 0
	}
	start := time.Now()
	var err error
	for chunk := range slices.Chunk(sessions, sweepChunk) {
		var behind []events.Head
		if behind, err = h.registry.Behind(ctx, sightings(chunk)); err != nil {
			break
		}
		for i := range behind {
			behind[i].Seq = 0 // look, and hand in what was confirmed
		}
		h.Wake(source, behind)
		found += len(behind)
	}
	h.swept(ctx, start, err)
	return found
}

func sightings(sessions []*Session) []events.Sighting {
	list := make([]events.Sighting, 0, len(sessions))
	for _, s := range sessions {
		s.mu.Lock()
		if s.attached && !s.ended {
			list = append(list, events.Sighting{UserID: s.userID, Position: s.position, Confirmed: s.confirmed})
		}
		s.mu.Unlock()
	}
	return list
}
