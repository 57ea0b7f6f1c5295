package hub

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	"restante/internal/events"
)

const (
	tickEvery      = time.Second
	detachEvery    = 200 * time.Millisecond
	leaveTimeout   = 2 * time.Second
	presenceLeases = 2   // in leases: how often this replica's session rows are compared with its sessions
	attachChunk    = 500 // sessions attached again per transaction
	attachFailures = 3   // in a row, after which the rest is not tried one by one
)

// Run keeps the hub's sessions until ctx ends: heartbeats, pings, sweeps, and the
// sessions' rows in the database.
func (h *Hub) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { h.beats(ctx); return nil })
	g.Go(func() error { h.keepAttached(ctx); return nil })
	g.Go(func() error { every(ctx, tickEvery, func() { h.tick(time.Now()) }); return nil })
	g.Go(func() error { every(ctx, detachEvery, func() { h.detachDeparted(ctx) }); return nil })
	if h.cfg.SweepEvery > 0 {
		g.Go(func() error { every(ctx, h.cfg.SweepEvery, func() { h.sweep(ctx) }); return nil })
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

// tick ends sessions that are too old, silent or do not confirm, and pings those
// that have been quiet for long.
func (h *Hub) tick(now time.Time) {
	for _, s := range h.all() {
		switch why, ping := s.inspect(now); {
		case why != nil:
			s.End(*why)
		case ping != nil:
			if err := ping.Ping(); err != nil {
				s.End(Unreachable)
			}
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
	case waiting && now.Sub(since) > cfg.AckTimeout:
		return &noAck, nil
	case !waiting && !s.pingedAt.IsZero() && now.Sub(s.pingedAt) > cfg.PongTimeout:
		return &Unreachable, nil
	case now.After(s.expiresAt):
		return &tooOld, nil
	case waiting: // the ack is the sign of life
	case s.pingedAt.IsZero() && !s.delivering && now.Sub(s.heardAt) >= cfg.PingEvery:
		s.pingedAt = now
		return nil, s.conn
	}
	return nil, nil
}

// sweep wakes the sessions that are behind for whatever reason, from time to time.
func (h *Hub) sweep(ctx context.Context) {
	h.metrics.sweepFound.Add(float64(h.wakeBehind(ctx, fromSweep)))
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
	sightings := make([]events.Sighting, 0, len(sessions))
	for _, s := range sessions {
		s.mu.Lock()
		if s.attached && !s.ended {
			sightings = append(sightings, events.Sighting{UserID: s.userID, Position: s.position, Confirmed: s.confirmed})
		}
		s.mu.Unlock()
	}
	start := time.Now()
	behind, err := h.registry.Behind(ctx, sightings)
	h.metrics.sweepSeconds.Observe(time.Since(start).Seconds())
	if err != nil {
		if ctx.Err() == nil {
			h.cfg.Logger.Warn("sweep failed; the next one repeats it", "err", err)
		}
		return 0
	}
	for i := range behind {
		behind[i].Seq = 0 // look, and hand in what was confirmed
	}
	h.Wake(source, behind)
	return len(behind)
}
