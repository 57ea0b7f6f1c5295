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

	saying sync.Mutex // guards stderr
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
	case o.mode == "neighbours": // the others will be frozen
		postTo, connectTo = e.servers[:1], e.servers[:1]
	case o.mode == "storm": // the first replica will not survive
		postTo, connectTo = e.servers[1:], e.servers[:1]
	}
	users := o.users
	if o.mode == "idle" {
		users = o.connections
	}
	var t target
	if o.target == "floor" {
		t = newFloorTarget(e.servers[0], o.floorTable(), users, e.db)
	} else {
		b.gateway = newGateway(postTo[0], connectTo, e.key, e.db, e.ids)
		t = b.gateway
	}
	b.load = newLoad(t, postTo, users, o.size)
	b.load.clients = o.clients()
	if o.past > 0 {
		err := b.during(fmt.Sprintf("writing %d delivered messages", o.past), func() error { return fillEvents(ctx, e.db, o.past, o.size) })
		if err != nil {
			return nil, err
		}
	}
	return b, b.load.begin(ctx)
}

// say writes a line about what is going on.
func (b *bench) say(format string, args ...any) {
	b.saying.Lock()
	defer b.saying.Unlock()
	fmt.Fprintf(b.stderr, format+"\n", args...)
}

// during runs f and meanwhile says once a second how the load is doing.
func (b *bench) during(what string, f func() error) error {
	if !b.progress {
		return f()
	}
	over := make(chan struct{})
	var lines sync.WaitGroup
	lines.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		l, started := b.load, time.Now()
		last, lastAt := l.received.Load(), started
		for {
			select {
			case <-over:
				return
			case <-tick.C:
			}
			received, now := l.received.Load(), time.Now()
			b.say("%4.0fs  %s %.0fs  connected %d of %d  accepted %d  received %d  %.0f/s  failed %d  reconnects %d",
				now.Sub(l.began).Seconds(), what, now.Sub(started).Seconds(), l.connected.Load(), l.clients, l.accepted.Load(), received,
				float64(received-last)/now.Sub(lastAt).Seconds(), l.refused.Load()+l.unknown.Load(), l.reconnects.Load())
			last, lastAt = received, now
		}
	})
	defer lines.Wait()
	defer close(over)
	return f()
}

// rest lets go on what goes on.
func (b *bench) rest(what string, d time.Duration) error {
	return b.during(what, func() error { return pause(b.ctx, d) })
}

// await polls until met and returns how long after since that was.
func (b *bench) await(what string, since time.Time, within time.Duration, met func() bool) (seconds float64, err error) {
	err = b.during(what, func() error {
		for !met() {
			if time.Since(since) > within {
				return fmt.Errorf("%s: not within %s: %d of %d clients are connected, %d messages are on their way",
					what, within, b.load.connected.Load(), b.load.clients, b.load.check.Waiting())
			}
			if err := pause(b.ctx, 2*time.Millisecond); err != nil {
				return err
			}
		}
		return nil
	})
	return time.Since(since).Seconds(), err
}

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
	wal, err := walBytes(b.ctx, b.env.db)
	if err != nil {
		return err
	}
	cost := b.startMeter()
	through, started := b.load.through(), time.Now()
	b.load.measure(duration)
	if err := b.rest("measuring", duration); err != nil {
		return err
	}
	b.Seconds = time.Since(started).Seconds()
	b.Messages = b.load.through() - through
	b.Rate = float64(b.Messages) / b.Seconds
	b.CPU = cost.perMessage(b.Messages)
	after, err := walBytes(b.ctx, b.env.db)
	b.WALBytes = per(float64(after-wal), float64(b.Messages))
	return err
}

// per divides, and is 0 where there is nothing to divide by.
func per(what, by float64) float64 {
	if by == 0 {
		return 0
	}
	return what / by
}

// verdict lets everything arrive and asks the checker.
func (b *bench) verdict() (err error) {
	err = b.during("waiting for the rest", func() (err error) {
		b.Verdict, b.Unsettled, err = b.load.finish(b.ctx)
		return err
	})
	b.Refused, b.Unanswered, b.Reconnects = b.load.refused.Load(), b.load.unknown.Load(), b.load.reconnects.Load()
	b.Errors = b.load.errors
	if windows := b.load.windows.Load(); windows != nil {
		w := (*windows)[len(*windows)-1]
		if w.delivery.count.Load() > 0 {
			b.Delivery, b.Answer = w.delivery.spread(), w.answers.spread()
		}
		if w.lateness.count.Load() > 0 {
			b.Lateness = w.lateness.spread()
		}
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
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(messages) }
	return &cpu{each(server), each(postgres), each(server + postgres)}
}
