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
		{name: "throughput", run: throughput,
			summary: "How many messages a second get from publishers, each waiting for its 202, through to connected clients that acknowledge.",
			example: "bench throughput -publishers 64 -users 200 -duration 10s"},
		{name: "batch", run: batch, defaults: func(o *options) { o.publishers = 8 },
			summary: "The same with many messages per POST.",
			example: "bench batch -group 100 -publishers 8"},
		{name: "latency", run: latency,
			summary: "How long a message takes from the moment it was due to be posted to its client, at a fixed rate.",
			example: "bench latency -rate 500 -duration 20s"},
		{name: "idle", run: idle,
			summary: "What an idle connection costs: resident memory, goroutines, CPU.",
			example: "bench idle -connections 5000"},
		{name: "quiet", run: quiet, defaults: func(o *options) { o.connections, o.duration, o.settle = 10_000, 30*time.Second, 15*time.Second },
			summary: "What idle connections cause in PostgreSQL: write-ahead log and CPU, next to a gateway without any.",
			example: "bench quiet -connections 10000 -duration 30s"},
		{name: "drain", run: drain,
			summary: "How fast users who come back get what is pending for them.",
			example: "bench drain -users 100 -backlog 1000"},
		{name: "storm", run: storm, own: true, defaults: func(o *options) { o.replicas, o.users, o.backlog = 3, 5000, 20 },
			summary: "A replica that holds all connections is killed (SIGKILL) with messages pending: how long until the others have delivered everything.",
			example: "bench storm -users 5000 -backlog 20 -replicas 3"},
		{name: "offline", run: offline, own: true, defaults: func(o *options) { o.duration = 5 * time.Second },
			summary: "Whether users who never connect cost anything but rows: publish rate, memory and River's fetch with and without a million of them.",
			example: "bench offline -streams 1000000 -jobs 100000"},
		{name: "soak", run: soak, own: true, defaults: func(o *options) {
			o.duration, o.warmup, o.rate, o.flags = 3*time.Minute, 10*time.Second, 3000, "-retention 1m"
		},
			summary: "Whether anything grows: CPU per message, sizes, dead rows, write-ahead log and memory, sampled at a fixed rate while trim runs.",
			example: "bench soak -rate 3000 -duration 20m -every 10s"},
	}
}

// clientBuffer holds a dozen messages: enough for several per read.
const clientBuffer = 16 << 10

// connectAll connects every user's client.
func (b *bench) connectAll(buffer int) (*clients, error) {
	ctx, done := context.WithCancel(b.ctx)
	var progress sync.WaitGroup
	if b.progress {
		progress.Go(func() {
			for pause(ctx, time.Second) == nil {
				b.say("connected %d of %d", b.load.connected.Load(), b.load.clients)
			}
		})
	}
	readers, err := b.load.connect(b.ctx, buffer)
	done()
	progress.Wait()
	return readers, err
}

func throughput(b *bench) error {
	return b.closedLoop(func(p *publisher) func(ctx context.Context) error {
		return func(ctx context.Context) error { return p.post(ctx, p.random.IntN(p.users), p.now()) }
	})
}

// closedLoop connects the clients and lets every publisher post again and again
// as soon as it was answered.
func (b *bench) closedLoop(poster func(p *publisher) func(ctx context.Context) error) error {
	readers, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	defer readers.close()
	writers := b.publish(b.publishers, func(ctx context.Context, p *publisher) {
		for post := poster(p); post(ctx) == nil; {
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
	open := b.openLoop()
	defer open.stop()
	if err := b.watch(b.warmup, nil); err != nil {
		return err
	}
	if err := b.window(b.duration); err != nil {
		return err
	}
	late := len(open.due)
	open.stop()
	if err := b.verdict(); err != nil {
		return err
	}
	if late > b.publishers {
		b.Errors = append(b.Errors, fmt.Sprintf("the server did not keep up: %d messages were due and not posted at the end", late))
	}
	return nil
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

// drain posts to users who have gone, and then they all come back at once.
func drain(b *bench) error {
	l := b.load
	before, err := b.connectAll(clientBuffer)
	if err != nil {
		return err
	}
	before.close()
	started := time.Now()
	if err := b.fillBacklog(); err != nil {
		return err
	}
	took := time.Since(started)
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

// fillBacklog posts -backlog messages to every user.
func (b *bench) fillBacklog() error {
	total := int64(b.users) * int64(b.backlog)
	var next atomic.Int64
	writers := b.publish(b.publishers, func(ctx context.Context, p *publisher) {
		for {
			n := next.Add(1) - 1
			if n >= total || p.post(ctx, int(n%int64(p.users)), p.now()) != nil {
				return
			}
		}
	})
	defer writers.stop()
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		writers.group.Wait()
	}()
	if err := b.watch(time.Hour, stored); err != nil {
		return err
	}
	select {
	case <-stored:
		return nil
	default:
		return errors.New("the backlog is not stored after an hour")
	}
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
	return b.touchAll()
}

// touchAll proves that connections work, and are not only open: each gets one
// message.
func (b *bench) touchAll() error {
	users := make(chan int, b.load.clients)
	for _, user := range rand.Perm(b.load.clients) {
		users <- user
	}
	close(users)
	writers := b.publish(min(b.publishers, b.load.clients), func(ctx context.Context, p *publisher) {
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
