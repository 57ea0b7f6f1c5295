package main

import "time"

// stormed is how long it took from the kill of the replica until …
type stormed struct {
	Clients          int     `json:"clients"`
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
	if err := b.fillBacklog(); err != nil {
		return err
	}

	s := &stormed{Clients: l.clients, Pending: l.accepted.Load()}
	b.Storm = s
	b.gateway.connectTo(b.env.servers[1:])
	l.reopened.Store(0) // who lost a connection while it was quiet is in reconnects
	killed := time.Now()
	if err := b.env.killGateway(0); err != nil {
		return err
	}
	b.say("the replica with %d connections is dead", l.clients)
	l.hold.Store(false)
	cost := b.startMeter()
	for _, step := range []struct {
		what    string
		seconds *float64
		met     func() bool
	}{
		{"the first client to come back", &s.FirstSeconds, func() bool { return l.reopened.Load() > 0 }},
		{"all clients to come back", &s.ConnectedSeconds, func() bool {
			return int(l.reopened.Load()) >= l.clients && int(l.connected.Load()) == l.clients
		}},
		{"all messages to arrive", &s.DeliveredSeconds, func() bool { return l.check.Waiting() == 0 }},
	} {
		if *step.seconds, err = b.await("waiting for "+step.what, killed, stormWithin, step.met); err != nil {
			return err
		}
	}
	if err := l.settled(b.ctx); err != nil {
		return err
	}
	s.SettledSeconds = time.Since(killed).Seconds()
	b.Seconds, b.Messages = s.DeliveredSeconds-s.FirstSeconds, s.Pending
	b.Rate = per(float64(b.Messages), b.Seconds)
	b.CPU = cost.perMessage(b.Messages)
	return b.verdict()
}
