package hub

import (
	"context"
	"errors"
	"slices"
	"time"

	"restante/internal/events"
)

// beats renews the replica's lease until ctx ends; then it finishes the last beat.
func (h *Hub) beats(ctx context.Context) {
	beat := func() {
		// One that is on its way is waited for, whatever becomes of ctx: given up, it
		// could still reach Postgres, and bring back the lease that Close had ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), h.cfg.Lease/4)
		defer cancel()
		b, err := h.cfg.Beat(ctx)
		if err != nil {
			h.beatFailed(err)
			return
		}
		h.metrics.beats.WithLabelValues("ok").Inc()
		if h.cfg.OnPeers != nil {
			h.cfg.OnPeers(b.Peers)
		}
		if b.Lapsed {
			h.metrics.lapses.Inc()
			select {
			case h.lapsed <- struct{}{}:
			default:
			}
		}
		h.mu.Lock()
		h.ready = true
		h.mu.Unlock()
	}
	beat()
	every(ctx, h.cfg.Lease/4, beat)
}

// keepAttached attaches every session again whenever a heartbeat has found the
// lease lapsed, and compares rows and sessions from time to time. It is not the
// heartbeat's own work, for it waits for the locks of streams, and meanwhile the
// lease would lapse once more; and it is one goroutine's, for two would wait for
// each other.
func (h *Hub) keepAttached(ctx context.Context) {
	repair := time.NewTicker(presenceLeases * h.cfg.Lease)
	defer repair.Stop()
	var again <-chan time.Time // when the last attempt failed
	for {
		select {
		case <-h.lapsed:
		case <-again:
		case <-repair.C:
			h.repairPresence(ctx)
			continue
		case <-ctx.Done():
			return
		}
		again = nil
		if !h.attachAll(ctx) {
			again = time.After(h.cfg.Lease / 4)
		}
	}
}

func (h *Hub) beatFailed(err error) {
	if h.life.Err() != nil {
		return
	}
	h.metrics.beats.WithLabelValues("failed").Inc()
	h.cfg.Logger.Warn("heartbeat failed; it is repeated", "err", err)
}

// attachAll attaches every session again, because delivery jobs may have taken
// this replica for dead and parked its users, and then looks what they missed. A
// session that is only just being attached is one of them: the row that it is
// about to hear of may be gone already.
func (h *Hub) attachAll(ctx context.Context) bool {
	return h.attach(ctx, func(*Session) bool { return true })
}

// attach attaches again the sessions that which names, and looks what they missed. It reports
// whether all of them are attached.
func (h *Hub) attach(ctx context.Context, which func(*Session) bool) bool {
	var records []events.Session
	for _, s := range h.all() {
		s.mu.Lock()
		if !s.ended && which(s) {
			records = append(records, s.record())
		}
		s.mu.Unlock()
	}
	if len(records) == 0 {
		return true
	}
	left := 0
	var err error
	for chunk := range slices.Chunk(records, attachChunk) {
		n, failed := h.attachChunk(ctx, chunk)
		left, err = left+n, errors.Join(err, failed)
		h.metrics.reattached.Add(float64(len(chunk) - n))
	}
	h.dropStillborn(records)
	h.Resync(ctx)
	if left > 0 {
		if ctx.Err() == nil {
			h.cfg.Logger.Warn("sessions could not be attached again; it is repeated", "sessions", left, "err", err)
		}
		return false
	}
	h.cfg.Logger.Info("sessions attached again", "sessions", len(records))
	return true
}

// attachChunk attaches sessions together or, if that fails, one by one: a user
// who is locked by something slow must not keep the others from being attached.
// It returns how many are left; several failures in a row leave the rest.
func (h *Hub) attachChunk(ctx context.Context, records []events.Session) (left int, err error) {
	if _, err = h.registry.Attach(ctx, records...); err == nil {
		return 0, nil
	}
	inARow := 0
	for i, r := range records {
		if inARow == attachFailures || ctx.Err() != nil {
			return left + len(records) - i, err
		}
		if _, one := h.registry.Attach(ctx, r); one != nil {
			err = one
			left++
			inARow++
			continue
		}
		inARow = 0
	}
	return left, err
}

// dropStillborn detaches sessions that ended while they were attached again:
// their Detach may have come first.
func (h *Hub) dropStillborn(records []events.Session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range records {
		if h.sessions[r.ID] == nil {
			h.departed = append(h.departed, r.ID)
		}
	}
}

// detachDeparted deletes the rows of sessions that have ended; what fails is kept
// for the next time.
func (h *Hub) detachDeparted(ctx context.Context) {
	h.mu.Lock()
	ids := h.departed
	h.departed = nil
	h.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	if err := h.registry.Detach(ctx, ids...); err != nil {
		h.mu.Lock()
		h.departed = append(h.departed, ids...)
		h.mu.Unlock()
		if ctx.Err() == nil {
			h.cfg.Logger.Warn("ended sessions could not be detached; it is repeated", "sessions", len(ids), "err", err)
		}
	}
}

// repairPresence compares this replica's session rows with its sessions. A row
// too many would keep a user's delivery job busy for ever; a row too few would
// let it park a user who is connected.
func (h *Hub) repairPresence(ctx context.Context) {
	before := map[string]bool{}
	for _, s := range h.all() {
		s.mu.Lock()
		before[s.id] = s.attached && !s.ended
		s.mu.Unlock()
	}
	rows, err := h.registry.Attached(ctx, h.cfg.ReplicaID)
	if err != nil {
		if ctx.Err() == nil {
			h.cfg.Logger.Warn("session rows could not be compared; it is repeated", "err", err)
		}
		return
	}
	var extra []string
	h.mu.RLock()
	for _, id := range rows {
		if h.sessions[id] == nil {
			extra = append(extra, id)
		}
		delete(before, id)
	}
	h.mu.RUnlock()
	if len(extra) > 0 {
		h.metrics.presenceFixed.Add(float64(len(extra)))
		h.mu.Lock()
		h.departed = append(h.departed, extra...)
		h.mu.Unlock()
	}
	missing := 0
	for _, attached := range before {
		if attached {
			missing++
		}
	}
	if missing > 0 {
		h.metrics.presenceFixed.Add(float64(missing))
		h.attach(ctx, func(s *Session) bool { return before[s.id] })
	}
}

// Drain stops taking sessions and ends those there are, each told to come back
// at a moment of its own within spread, so that they do not arrive together.
func (h *Hub) Drain(spread time.Duration) { h.endAll(draining, spread) }

// Abandon is Drain for a log whose history changed.
func (h *Hub) Abandon(spread time.Duration) { h.endAll(historyChanged, spread) }

func (h *Hub) endAll(why Closing, spread time.Duration) {
	h.mu.Lock()
	h.draining = true
	h.mu.Unlock()
	for _, s := range h.all() {
		why.ReconnectAfter = jitter(spread)
		s.End(why)
	}
}

// Close waits for what is still delivering, until ctx ends, and gives up the
// replica's lease. Call it after Drain, when Run has returned: a heartbeat after it
// would leave a replica for dead, whose row the others count as a peer for a lease.
func (h *Hub) Close(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		h.pumps.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
	h.endLife()
	<-done
	// Whoever has used up ctx has all the more reason to leave no row behind.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	return h.registry.Leave(ctx, h.cfg.ReplicaID)
}
