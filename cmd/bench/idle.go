package main

import "time"

// idled is what connections that say nothing cost. A server without any has
// upkeep of its own, so that is measured first.
type idled struct {
	Connections    int     `json:"connections"`
	BytesEach      float64 `json:"resident_bytes_each,omitempty"` // 0 if unknown
	GoroutinesEach float64 `json:"goroutines_each,omitempty"`     // 0 if unknown
	With           still   `json:"with"`
	Without        still   `json:"without"`
}

// still is what goes on per second while nobody does anything: bytes of
// write-ahead log, and CPU in per cent of a core.
type still struct {
	WAL      float64 `json:"wal_bytes_per_second"`
	Server   float64 `json:"server_core_percent,omitempty"`
	Postgres float64 `json:"postgres_core_percent,omitempty"`
	KnownCPU bool    `json:"known_cpu"`
}

// idle looks at the same server for as long without connections and with them.
// Windows of whole minutes hold as many of the jobs that run once a minute, and
// two pings of every connection.
func idle(b *bench) error {
	i := &idled{Connections: b.load.clients}
	b.Idle = i
	var err error
	if i.Without, err = b.stillness("without connections"); err != nil {
		return err
	}
	before := b.env.usage(b.ctx)
	readers, err := b.connectAll(512)
	if err != nil {
		return err
	}
	defer readers.close()
	if i.With, err = b.stillness("with connections"); err != nil {
		return err
	}
	after := b.env.usage(b.ctx)
	b.Seconds = b.duration.Seconds()
	if before.memory > 0 && after.memory > 0 {
		i.BytesEach = float64(after.memory-before.memory) / float64(i.Connections)
	}
	if before.goroutines > 0 && after.goroutines > 0 {
		i.GoroutinesEach = float64(after.goroutines-before.goroutines) / float64(i.Connections)
	}
	return b.touchAll()
}

func (b *bench) stillness(what string) (s still, err error) {
	// In this order: after the checkpoint each page is written to the log whole once,
	// and what upkeep touches once a minute would count as bytes a second.
	if err := tidyUp(b.ctx, b.env.db); err != nil {
		return s, err
	}
	if err := b.rest("leaving the server alone", b.settle); err != nil {
		return s, err
	}
	before, err := walBytes(b.ctx, b.env.db)
	if err != nil {
		return s, err
	}
	cost, started := b.startMeter(), time.Now()
	if err := b.rest(what, b.duration); err != nil {
		return s, err
	}
	seconds := time.Since(started).Seconds()
	server, postgres, known := cost.since()
	after, err := walBytes(b.ctx, b.env.db)
	s = still{WAL: float64(after-before) / seconds, KnownCPU: known}
	if known {
		s.Server, s.Postgres = 100*server.Seconds()/seconds, 100*postgres.Seconds()/seconds
	}
	return s, err
}
