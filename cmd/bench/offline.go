package main

import (
	"context"
	"fmt"
	"time"
)

// offlined compares the same load before and after the database was filled with
// users who never connect.
type offlined struct {
	Streams     int     `json:"streams"`
	FillSeconds float64 `json:"fill_seconds"`
	Before      phase   `json:"before"`
	After       phase   `json:"after"`
	Jobs        int     `json:"jobs"`
	WithJobs    phase   `json:"with_jobs"`
	Fetch       float64 `json:"fetch_ms"` // River's fetch with nothing due, no job in the table
	FetchJobs   float64 `json:"fetch_ms_with_jobs"`
}

// phase is one window. What is unknown is 0.
type phase struct {
	Rate   float64 `json:"messages_per_second"`
	CPU    float64 `json:"cpu_us_per_message,omitempty"`
	Memory int64   `json:"server_resident_bytes,omitempty"`
}

func offline(b *bench) error {
	readers, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	defer readers.close()
	o := &offlined{Streams: b.streams, Jobs: b.jobs}
	b.Offline = o

	if o.Before, err = b.phase(); err != nil {
		return err
	}
	if o.Fetch, err = b.fetch(); err != nil {
		return err
	}
	started := time.Now()
	err = b.during(fmt.Sprintf("writing %d offline users", b.streams), func() error { return fillOffline(b.ctx, b.env.db, b.streams, b.size) })
	if err != nil {
		return err
	}
	o.FillSeconds = time.Since(started).Seconds()
	if o.After, err = b.phase(); err != nil {
		return err
	}
	err = b.during(fmt.Sprintf("writing %d delivery jobs", b.jobs), func() error { return fillJobs(b.ctx, b.env.db, b.jobs) })
	if err != nil {
		return err
	}
	if o.FetchJobs, err = b.fetch(); err != nil {
		return err
	}
	if o.WithJobs, err = b.phase(); err != nil {
		return err
	}
	return b.verdict()
}

func (b *bench) fetch() (ms float64, err error) {
	took, err := fetchCost(b.ctx, b.env.db)
	return float64(took.Microseconds()) / 1000, err
}

// phase loads the gateway for the duration.
func (b *bench) phase() (p phase, err error) {
	if err := b.rest("leaving the server alone", b.settle); err != nil {
		return p, err
	}
	writers := b.publish(b.publishers, func(ctx context.Context, p *publisher) {
		for p.post(ctx, p.random.IntN(p.users), p.now()) == nil {
		}
	})
	defer writers.stop()
	if err := b.rest("warming up", b.warmup); err != nil {
		return p, err
	}
	if err := b.window(b.duration); err != nil {
		return p, err
	}
	p.Rate, p.Memory = b.Rate, b.env.usage(b.ctx).memory
	if b.CPU != nil {
		p.CPU = b.CPU.Both
	}
	return p, nil
}
