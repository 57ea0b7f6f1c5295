package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"
)

// bench is one run of one mode.
type bench struct {
	ctx context.Context
	options
	env     *environment
	load    *load
	gateway *gateway // the load's target, nil if that is the floor
	figures
	stderr io.Writer
}

// measure runs one mode in an environment of its own.
func measure(ctx context.Context, m mode, o options, stderr io.Writer) (f *figures, err error) {
	e, err := newEnvironment(ctx, &o, stderr)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.stop()) }()

	// The heap of a load generator is small and its garbage plenty; collecting
	// it less often leaves the CPU to what is measured.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	b, err := newBench(ctx, o, e, stderr)
	if err != nil {
		return nil, err
	}
	if err := m.run(b); err != nil {
		return nil, err
	}
	b.describe()
	return &b.figures, nil
}

// newBench prepares the load; nothing is sent yet.
func newBench(ctx context.Context, o options, e *environment, stderr io.Writer) (*bench, error) {
	b := &bench{ctx: ctx, options: o, env: e, stderr: stderr}
	postTo, connectTo := e.servers, e.servers
	switch {
	case o.cross:
		postTo, connectTo = e.servers[:1], e.servers[1:]
	case o.mode == "storm": // the first replica will not survive
		postTo, connectTo = e.servers[1:], e.servers[:1]
	}
	users := o.users
	if o.mode == "idle" || o.mode == "quiet" {
		users = o.connections
	}
	var t target
	if o.target == "floor" {
		t = newFloorTarget(e.servers[0], users, e.db)
	} else {
		b.gateway = newGateway(postTo[0], connectTo, e.key, e.db, e.ids)
		t = b.gateway
	}
	if o.past > 0 {
		b.say("writing %d delivered messages", o.past)
		if err := fillEvents(ctx, e.db, o.past, o.size); err != nil {
			return nil, err
		}
	}
	b.load = newLoad(t, postTo, users, o.size)
	b.load.clients = o.clients()
	return b, b.load.begin(ctx)
}

// say writes a line about what is going on.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.stderr, format+"\n", args...) }

// crowd runs n publishers until stopped.
type crowd struct {
	cancel context.CancelFunc
	group  sync.WaitGroup
}

func (b *bench) publish(n int, body func(ctx context.Context, p *publisher)) *crowd {
	ctx, cancel := context.WithCancel(b.ctx)
	c := &crowd{cancel: cancel}
	for i := range n {
		p := b.load.publisher(i)
		c.group.Go(func() {
			defer p.conn.close()
			body(ctx, p)
		})
	}
	return c
}

// stop lets every publisher finish what it is posting.
func (c *crowd) stop() {
	c.cancel()
	c.group.Wait()
}

// window measures for the duration: what arrived, and what it cost.
func (b *bench) window(duration time.Duration) error {
	cost := b.startMeter()
	through, started := b.load.through(), time.Now()
	b.load.measure(duration)
	if err := b.watch(duration, nil); err != nil {
		return err
	}
	b.Seconds = time.Since(started).Seconds()
	b.Messages = b.load.through() - through
	b.Rate = float64(b.Messages) / b.Seconds
	b.CPU = cost.perMessage(b.Messages)
	return nil
}

// watch waits for the duration, or until done is closed, and shows progress.
func (b *bench) watch(duration time.Duration, done <-chan struct{}) error {
	over := time.NewTimer(duration)
	defer over.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last, lastAt := b.load.received.Load(), time.Now()
	for {
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-done:
			return nil
		case <-over.C:
			return nil
		case <-tick.C:
		}
		if !b.progress {
			continue
		}
		received, now := b.load.received.Load(), time.Now()
		b.say("%4.0fs  posted %d  accepted %d  received %d  %.0f/s  failed %d  reconnects %d",
			time.Since(b.load.began).Seconds(), b.load.posted.Load(), b.load.accepted.Load(), received,
			float64(received-last)/now.Sub(lastAt).Seconds(), b.load.refused.Load()+b.load.unknown.Load(), b.load.reconnects.Load())
		last, lastAt = received, now
	}
}

// verdict lets everything arrive and asks the checker.
func (b *bench) verdict() (err error) {
	b.Verdict, err = b.load.finish(b.ctx)
	b.Refused, b.Unanswered, b.Reconnects = b.load.refused.Load(), b.load.unknown.Load(), b.load.reconnects.Load()
	b.Errors = b.load.errors
	if b.load.delivery.count.Load() > 0 {
		b.Delivery, b.Answer = b.load.delivery.spread(), b.load.answers.spread()
	}
	return err
}

// meter is CPU time at the start of a window.
type meter struct {
	b                *bench
	server, postgres time.Duration
	ok, okPostgres   bool
}

func (b *bench) startMeter() meter {
	m := meter{b: b}
	m.server, m.ok = cpuOf(b.env.pids)
	m.postgres, m.okPostgres = cpuOf(b.env.postgres)
	return m
}

// since is the CPU time used since the meter was started.
func (m meter) since() (server, postgres time.Duration, ok bool) {
	server, ok = cpuOf(m.b.env.pids)
	postgres, okPostgres := cpuOf(m.b.env.postgres)
	return server - m.server, postgres - m.postgres, ok && okPostgres && m.ok && m.okPostgres
}

func (m meter) perMessage(messages int64) *cpu {
	server, postgres, ok := m.since()
	if !ok || messages == 0 {
		return nil
	}
	per := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(messages) }
	return &cpu{per(server), per(postgres), per(server + postgres)}
}
