package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
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
		// Alone for longer than a round of autovacuum takes, and until the gateway has
		// noticed that it is quiet and has given memory back.
		{name: "idle", run: idle, defaults: func(o *options) { o.connections, o.duration, o.settle = 10_000, time.Minute, 90*time.Second },
			summary: "What idle connections cost: memory, goroutines, CPU and write-ahead log, next to the same server without any.",
			example: "bench idle -connections 5000"},
		{name: "drain", run: drain,
			summary: "How fast users who come back get what is pending for them.",
			example: "bench drain -users 100 -backlog 1000"},
		{name: "storm", run: storm, own: true, defaults: func(o *options) {
			// Clients hold their acks while the backlog is stored, however long that takes.
			o.replicas, o.users, o.backlog, o.flags = 3, 5000, 20, "-ack-timeout 2m"
		},
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
		{name: "neighbours", run: neighbours, own: true, defaults: func(o *options) { o.replicas, o.duration = 2, 15*time.Second },
			summary: "What the trouble of one user, publisher or client does to the others: their posts and deliveries before, during and after it, one trouble at a time.",
			example: "bench neighbours -troubles lock,arrays"},
	}
}

// clientBuffer holds a dozen messages: enough for several per read.
const clientBuffer = 16 << 10

// connectAll connects every user's client.
func (b *bench) connectAll(buffer int) (readers *clients, err error) {
	err = b.during("connecting", func() (err error) {
		readers, err = b.load.connect(b.ctx, buffer)
		return err
	})
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
	if err := b.rest("warming up", b.warmup); err != nil {
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
	if err := b.rest("warming up", b.warmup); err != nil {
		return err
	}
	if err := b.window(b.duration); err != nil {
		return err
	}
	b.Late = max(0, int64(len(open.due)-b.publishers))
	open.stop()
	return b.verdict()
}

// pace puts the moments at which messages are due into the channel. It sleeps in
// a thread of its own, since Go's timers may be a millisecond late.
func pace(ctx context.Context, l *load, rate int, due chan<- int64) {
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	sharpen()
	start := l.now()
	for n := int64(0); ctx.Err() == nil; n++ {
		at := start + n*int64(time.Second)/int64(rate)
		if wait := time.Duration(at - l.now()); wait > 0 {
			sleep(wait)
		}
		select {
		case due <- at:
		case <-ctx.Done():
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
	if b.Seconds, err = b.await("draining", back, time.Minute, func() bool { return l.received.Load() >= d.Stored }); err != nil {
		return err
	}
	b.Messages = l.received.Load()
	b.Rate = float64(b.Messages) / b.Seconds
	if err := l.settled(b.ctx); err != nil {
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
	// A server that stores less than a thousand a second is not worth waiting for.
	within := time.Minute + time.Duration(total)*time.Millisecond
	late := time.AfterFunc(within, writers.cancel)
	defer late.Stop()
	err := b.during("storing", func() error { writers.group.Wait(); return b.ctx.Err() })
	if err == nil && next.Load() < total {
		err = fmt.Errorf("of the backlog of %d only %d are stored after %s", total, b.load.accepted.Load(), within)
	}
	return err
}

// touchWithin bounds how long clients are touched.
const touchWithin = 2 * time.Minute

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
	late := time.AfterFunc(touchWithin, writers.cancel)
	defer late.Stop()
	err := b.during("a message to each", func() error { writers.group.Wait(); return b.ctx.Err() })
	if err == nil && len(users) > 0 {
		err = fmt.Errorf("a message to each client: %d are still to be posted after %s", len(users), touchWithin)
	}
	if err != nil {
		return err
	}
	return b.verdict()
}
