package main

import "time"

// quieted is what connections that say nothing cause in Postgres. A gateway
// without any has upkeep of its own, so it is measured first.
type quieted struct {
	Connections         int     `json:"connections"`
	WALBytesPerSecond   float64 `json:"wal_bytes_per_second"`
	WALBytesWithout     float64 `json:"wal_bytes_per_second_without"`
	PostgresCorePercent float64 `json:"postgres_core_percent"`
	PostgresWithout     float64 `json:"postgres_core_percent_without"`
	ServerCorePercent   float64 `json:"server_core_percent"`
	ServerWithout       float64 `json:"server_core_percent_without"`
}

func quiet(b *bench) error {
	without, err := b.stillness()
	if err != nil {
		return err
	}
	readers, err := b.connectAll(512)
	if err != nil {
		return err
	}
	defer readers.close()
	with, err := b.stillness()
	if err != nil {
		return err
	}
	b.Seconds = b.duration.Seconds()
	b.Quiet = &quieted{
		b.load.clients, with.wal, without.wal, with.postgres, without.postgres, with.server, without.server,
	}
	return b.touchAll()
}

// still is what goes on per second while nobody does anything: bytes of
// write-ahead log, and CPU in per cent of a core.
type still struct{ wal, server, postgres float64 }

func (b *bench) stillness() (s still, err error) {
	if err := pause(b.ctx, b.settle); err != nil {
		return s, err
	}
	if err := tidyUp(b.ctx, b.env.db); err != nil {
		return s, err
	}
	before, err := walBytes(b.ctx, b.env.db)
	if err != nil {
		return s, err
	}
	cost, started := b.startMeter(), time.Now()
	if err := b.watch(b.duration, nil); err != nil {
		return s, err
	}
	seconds := time.Since(started).Seconds()
	server, postgres, _ := cost.since()
	after, err := walBytes(b.ctx, b.env.db)
	s = still{float64(after-before) / seconds, 100 * server.Seconds() / seconds, 100 * postgres.Seconds() / seconds}
	return s, err
}
