package hub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

const (
	listenTimeout = 5 * time.Second
	// silence is how long the listener hears nothing before it asks whether the
	// connection is alive, with a timeout: one that died without an error would
	// otherwise be waited on for ever.
	silence     = 5 * time.Second
	pingTimeout = 3 * time.Second
	retryMin    = 50 * time.Millisecond
	retryMax    = 3 * time.Second
)

// Run sends and listens until ctx ends.
func (f *Fanout) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { f.send(ctx); return nil })
	g.Go(func() error { f.listenForEver(ctx); return nil })
	return g.Wait()
}

func (f *Fanout) listenForEver(ctx context.Context) {
	for wait := retryMin; ctx.Err() == nil; {
		started := time.Now()
		err := f.listen(ctx)
		f.listening.Store(false)
		f.metrics.listenerUp.Set(0)
		if ctx.Err() != nil {
			return
		}
		if time.Since(started) > time.Minute {
			wait = retryMin
		}
		f.logger.Warn("listener lost its connection; it connects again", "err", err)
		timer := time.NewTimer(wait/2 + jitter(wait))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		wait = min(2*wait, retryMax)
	}
}

// listen connects, listens, resynchronises (anything may have been missed while
// nobody listened, so in this order) and receives until the connection fails.
func (f *Fanout) listen(ctx context.Context) error {
	conn, err := f.startListening(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	f.listening.Store(true)
	f.metrics.listenerUp.Set(1)
	f.metrics.reconnects.Inc()
	f.resync(ctx)
	for {
		n, err := waitForNotification(ctx, conn)
		if err != nil {
			return err
		}
		if n != "" {
			f.receive(n)
		}
	}
}

func (f *Fanout) startListening(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	conn, err := f.connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect listener: %w", err)
	}
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		closeConn(conn)
		return nil, fmt.Errorf("listen: %w", err)
	}
	// The others may not have sent anything as long as they knew of no peer; a
	// payload without content says that there is one now.
	if _, err := conn.Exec(ctx, `SELECT pg_notify($1, $2)`, channel, f.replicaID); err != nil {
		closeConn(conn)
		return nil, fmt.Errorf("say hello: %w", err)
	}
	return conn, nil
}

// waitForNotification returns the next payload, or "" after a silence in which
// the connection proved to be alive.
func waitForNotification(ctx context.Context, conn *pgx.Conn) (string, error) {
	quiet, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	switch {
	case err == nil:
		return n.Payload, nil
	case ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
		return "", fmt.Errorf("wait for notification: %w", err)
	}
	ping, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	if err := conn.Ping(ping); err != nil {
		return "", fmt.Errorf("ping: %w", err)
	}
	return "", nil
}

// receive opens a payload and wakes. One that does not open is skipped: a replica of
// another epoch or another release may have sent it, or somebody who is no replica.
func (f *Fanout) receive(payload string) {
	from, sealed, named := strings.Cut(payload, "\n")
	if from == f.replicaID {
		return
	}
	f.metrics.received.Inc()
	if !named {
		f.peers.CompareAndSwap(0, 1) // the next heartbeat counts them
		return
	}
	heads, entries, err := f.open(from, sealed)
	if err != nil {
		f.metrics.unopened.Inc()
		f.complain.Do(func() {
			f.logger.Warn("a notification cannot be opened; the sweep makes up for it. Do all replicas have the same keyring and release?", "err", err)
		})
		return
	}
	f.metrics.receivedEvents.Add(float64(len(entries)))
	f.received(heads, entries)
}
