package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// modes are the load runs, in the order of the help text.
func modes() []mode {
	return []mode{
		{"throughput", "How many messages a second get from publishers, each waiting for its 202, through to connected clients that acknowledge.",
			"bench throughput -publishers 64 -users 200 -duration 10s", throughput},
		{"latency", "How long a message takes from the moment it was due to be posted to its client, at a fixed rate.",
			"bench latency -rate 500 -duration 20s", latency},
		{"idle", "What an idle connection costs: resident memory, goroutines, CPU.",
			"bench idle -connections 5000", idle},
		{"drain", "How fast users who come back get what is pending for them.",
			"bench drain -users 100 -backlog 1000", drain},
	}
}

// clientBuffer holds a dozen messages: enough for several per read.
const clientBuffer = 16 << 10

// connectAll connects every user's client.
func (b *bench) connectAll(buffer int) (*clients, error) {
	var opened atomic.Int64
	ctx, done := context.WithCancel(b.ctx)
	var progress sync.WaitGroup
	if b.progress {
		progress.Go(func() {
			for pause(ctx, time.Second) == nil {
				b.say("connected %d of %d", opened.Load(), b.load.users)
			}
		})
	}
	readers, err := b.load.connect(b.ctx, buffer, &opened)
	done()
	progress.Wait()
	return readers, err
}

func throughput(b *bench) error {
	readers, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	defer readers.close()
	writers := b.publish(b.publishers, func(ctx context.Context, p *publisher) {
		for p.post(ctx, p.random.IntN(p.users), p.now()) == nil {
		}
	})
	defer writers.stop()
	if err := b.watch(b.warmup, nil); err != nil {
		return err
	}
	if err := b.window(b.duration); err != nil {
		return err
	}
	writers.stop()
	return b.verdict()
}

// latency is an open loop: messages are due at fixed moments, whether or not
// those before them were answered, and the clock of each starts when it was due.
// A server that stalls is charged for all that came due meanwhile.
func latency(b *bench) error {
	readers, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	defer readers.close()
	// As long as the run: the pacer must never wait for publishers.
	due := make(chan int64, int(float64(b.rate)*(b.warmup+b.duration).Seconds())+b.rate)
	writers := b.publish(b.publishers, func(ctx context.Context, p *publisher) {
		for at := range due {
			if p.post(ctx, p.random.IntN(p.users), at) != nil {
				return
			}
		}
	})
	pacing, stop := context.WithCancel(b.ctx)
	paced := make(chan struct{})
	go func() {
		defer close(paced)
		defer close(due)
		pace(pacing, b.load, b.rate, due)
	}()
	defer func() {
		stop()
		<-paced
		writers.stop()
	}()
	if err := b.watch(b.warmup, nil); err != nil {
		return err
	}
	if err := b.window(b.duration); err != nil {
		return err
	}
	stop()
	<-paced
	if late := len(due); late > b.publishers {
		b.Errors = append(b.Errors, fmt.Sprintf("the server did not keep up: %d messages were due and not posted at the end", late))
	}
	writers.stop()
	late := b.Errors
	err = b.verdict()
	b.Errors = append(late, b.Errors...)
	return err
}

// pace puts the moments at which messages are due into the channel.
func pace(ctx context.Context, l *load, rate int, due chan<- int64) {
	start := l.now()
	for n := int64(0); ; n++ {
		at := start + n*int64(time.Second)/int64(rate)
		if wait := time.Duration(at - l.now()); wait > 0 {
			if pause(ctx, wait) != nil {
				return
			}
		}
		select {
		case due <- at:
		case <-ctx.Done():
			return
		}
	}
}

// drain posts to users who are not there, then connects them all at once.
func drain(b *bench) error {
	l := b.load
	total := int64(b.users) * int64(b.backlog)
	var next atomic.Int64
	started := time.Now()
	writers := b.publish(b.publishers, func(ctx context.Context, p *publisher) {
		for {
			n := next.Add(1) - 1
			if n >= total || p.post(ctx, int(n%int64(p.users)), p.now()) != nil {
				return
			}
		}
	})
	defer writers.stop()
	stored, took := make(chan struct{}), time.Duration(0)
	go func() {
		defer close(stored)
		writers.group.Wait()
		took = time.Since(started)
	}()
	if err := b.watch(time.Hour, stored); err != nil {
		return err
	}
	select {
	case <-stored:
	default:
		return errors.New("the backlog is not stored after an hour")
	}
	d := &drained{Stored: l.accepted.Load(), StoredPerSecond: float64(l.accepted.Load()) / took.Seconds()}
	b.Drain = d

	cost, back := b.startMeter(), time.Now()
	readers, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	defer readers.close()
	d.ConnectSeconds = time.Since(back).Seconds()
	for l.received.Load() < d.Stored && time.Since(back) < time.Minute {
		if err := pause(b.ctx, time.Millisecond); err != nil {
			return err
		}
	}
	b.Seconds, b.Messages = time.Since(back).Seconds(), l.received.Load()
	b.Rate = float64(b.Messages) / b.Seconds
	if _, err := l.settled(b.ctx); err != nil {
		return err
	}
	d.SettledSeconds = time.Since(back).Seconds()
	b.CPU = cost.perMessage(b.Messages)
	return b.verdict()
}

func idle(b *bench) error {
	// Servers are left alone before their memory is read.
	if err := pause(b.ctx, b.settle); err != nil {
		return err
	}
	before := b.env.usage(b.ctx)
	readers, err := b.connectAll(512)
	if err != nil {
		return err
	}
	defer readers.close()
	if err := pause(b.ctx, b.settle); err != nil {
		return err
	}
	cost, started := b.startMeter(), time.Now()
	if err := b.watch(b.duration, nil); err != nil {
		return err
	}
	b.Seconds = time.Since(started).Seconds()
	server, postgres, ok := cost.since()
	after := b.env.usage(b.ctx)
	b.Idle = &idled{Connections: b.load.users, Reconnects: b.load.reconnects.Load()}
	if n := float64(b.load.users); before.memory > 0 && after.memory > 0 {
		b.Idle.BytesEach = float64(after.memory-before.memory) / n
	}
	if before.goroutines > 0 && after.goroutines > 0 {
		b.Idle.GoroutinesEach = float64(after.goroutines-before.goroutines) / float64(b.load.users)
	}
	if ok {
		b.Idle.ServerCorePercent = 100 * server.Seconds() / b.Seconds
		b.Idle.PostgresCorePercent = 100 * postgres.Seconds() / b.Seconds
	}
	// They must work, not only be open: each gets one message.
	users := make(chan int, b.load.users)
	for _, user := range rand.Perm(b.load.users) {
		users <- user
	}
	close(users)
	writers := b.publish(min(b.publishers, b.load.users), func(ctx context.Context, p *publisher) {
		for user := range users {
			if p.post(ctx, user, p.now()) != nil {
				return
			}
		}
	})
	writers.group.Wait()
	writers.stop()
	return b.verdict()
}
