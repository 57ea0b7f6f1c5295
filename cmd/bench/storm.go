package main

import (
	"fmt"
	"time"
)

// stormed is how long it took from the kill of the replica until …
type stormed struct {
	Pending          int64   `json:"pending"`           // messages that nobody had confirmed
	FirstSeconds     float64 `json:"first_seconds"`     // … the first client was back
	ConnectedSeconds float64 `json:"connected_seconds"` // … all clients were back
	DeliveredSeconds float64 `json:"delivered_seconds"` // … every client had every message
	SettledSeconds   float64 `json:"settled_seconds"`   // … every acknowledgement was in the database
}

// stormWithin bounds how long the clients are waited for.
const stormWithin = 2 * time.Minute

// storm connects all clients to the first replica, lets messages pile up that
// they receive and do not confirm, kills the replica and lets the clients come
// back to the others, as soon as they notice, give or take half a second.
func storm(b *bench) error {
	l := b.load
	l.hold.Store(true)
	readers, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	defer readers.close()
	b.say("posting %d messages", b.users*b.backlog)
	if err := b.fillBacklog(); err != nil {
		return err
	}

	s := &stormed{Pending: l.accepted.Load()}
	b.Storm = s
	b.gateway.connectTo(b.env.servers[1:])
	killed := time.Now()
	if err := b.env.killGateway(0); err != nil {
		return err
	}
	b.say("the replica with %d connections is dead", l.clients)
	l.hold.Store(false)
	cost := b.startMeter()
	if s.FirstSeconds, err = b.await(killed, func() bool { return l.reopened.Load() > 0 }); err != nil {
		return err
	}
	if s.ConnectedSeconds, err = b.await(killed, func() bool { return int(l.reopened.Load()) >= l.clients }); err != nil {
		return err
	}
	if s.DeliveredSeconds, err = b.await(killed, func() bool { return l.check.Waiting() == 0 }); err != nil {
		return err
	}
	if _, err := l.settled(b.ctx); err != nil {
		return err
	}
	s.SettledSeconds = time.Since(killed).Seconds()
	b.Seconds, b.Messages = s.DeliveredSeconds-s.FirstSeconds, s.Pending
	b.Rate = float64(b.Messages) / b.Seconds
	b.CPU = cost.perMessage(b.Messages)
	return b.verdict()
}

// await waits for a condition and returns how long after since it was met.
func (b *bench) await(since time.Time, met func() bool) (seconds float64, err error) {
	for !met() {
		if time.Since(since) > stormWithin {
			return 0, fmt.Errorf("clients were not served again within %s: %d of %d are connected, %d messages are on their way",
				stormWithin, b.load.connected.Load(), b.load.clients, b.load.check.Waiting())
		}
		if err := pause(b.ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return time.Since(since).Seconds(), nil
}
