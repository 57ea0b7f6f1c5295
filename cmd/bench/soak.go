package main

import (
	"context"
	"time"
)

// soakSample is one interval of a soak.
type soakSample struct {
	Seconds  float64     `json:"seconds"` // since the first
	Rate     float64     `json:"messages_per_second"`
	CPU      *cpu        `json:"cpu,omitempty"`
	Memory   int64       `json:"server_resident_bytes"`
	WALBytes float64     `json:"wal_bytes_per_message"`
	Tables   []tableSize `json:"tables"`
}

// soak posts at a fixed rate and looks every so often.
func soak(b *bench) error {
	readers, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	defer readers.close()
	open := b.openLoop()
	defer open.stop()
	if err := b.rest("warming up", b.warmup); err != nil {
		return err
	}
	started, whole, received := time.Now(), b.startMeter(), b.load.through()
	b.load.measure(b.duration)
	for time.Since(started) < b.duration {
		s, err := b.sample(started)
		if err != nil {
			return err
		}
		b.Soak = append(b.Soak, s)
		b.say("%4.0fs  %.0f/s  %s  resident %d MiB", s.Seconds, s.Rate, s.CPU, s.Memory>>20)
	}
	b.Seconds, b.Messages = time.Since(started).Seconds(), b.load.through()-received
	b.Rate, b.CPU = float64(b.Messages)/b.Seconds, whole.perMessage(b.Messages)
	b.Late = max(0, int64(len(open.due)-b.publishers))
	open.stop()
	return b.verdict()
}

// sample measures one interval.
func (b *bench) sample(started time.Time) (s soakSample, err error) {
	cost, at, received := b.startMeter(), time.Now(), b.load.through()
	wal, err := walBytes(b.ctx, b.env.db)
	if err != nil {
		return s, err
	}
	if err := b.rest("soaking", b.every); err != nil {
		return s, err
	}
	n := b.load.through() - received
	s = soakSample{
		Seconds: time.Since(started).Seconds(), Rate: float64(n) / time.Since(at).Seconds(),
		CPU: cost.perMessage(n), Memory: b.env.usage(b.ctx).memory,
	}
	walNow, err := walBytes(b.ctx, b.env.db)
	if err != nil {
		return s, err
	}
	s.WALBytes = per(float64(walNow-wal), float64(n))
	s.Tables, err = tableSizes(b.ctx, b.env.db)
	return s, err
}

// openLoop posts messages that are due at fixed moments, whether or not those
// before them were answered.
type openLoop struct {
	stop func() // lets every publisher finish what it is posting; may be called again
	due  chan int64
}

func (b *bench) openLoop() *openLoop {
	// As long as the run: the pacer must never wait for publishers.
	whole := b.warmup + b.duration
	if b.mode == "neighbours" {
		whole = b.warmup + 4*b.duration
	}
	o := &openLoop{due: make(chan int64, int(float64(b.rate)*whole.Seconds())+b.rate)}
	writers := b.publish(b.publishers, func(ctx context.Context, p *publisher) {
		for at := range o.due {
			if w := p.within(at); w != nil {
				w.lateness.record(time.Duration(p.now() - at))
			}
			if p.post(ctx, p.anybody(), at) != nil {
				return
			}
		}
	})
	pacing, cancel := context.WithCancel(b.ctx)
	paced := make(chan struct{})
	go func() {
		defer close(paced)
		defer close(o.due)
		pace(pacing, b.load, b.rate, o.due)
	}()
	o.stop = func() {
		cancel()
		<-paced
		writers.stop()
	}
	return o
}

// cpuOfSample is 0 if it is not known.
func cpuOfSample(s soakSample) float64 {
	if s.CPU == nil {
		return 0
	}
	return s.CPU.Both
}

// size is all tables with their indexes, in bytes.
func (s soakSample) size() (bytes float64) {
	for _, t := range s.Tables {
		bytes += float64(t.Bytes + t.Indexes)
	}
	return bytes
}

// dead is the dead rows of all tables.
func (s soakSample) dead() (rows float64) {
	for _, t := range s.Tables {
		rows += float64(t.Dead)
	}
	return rows
}
