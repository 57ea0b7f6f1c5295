package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// phase is one thing that happens to the stack under load.
type phase struct {
	name   string
	do     func() error
	noFail bool // no POST may fail, not even for a moment
	drains bool // devices are told when to come back, not all at once
}

func (t *test) phases() []phase {
	return []phase{
		{name: "nothing happens", do: func() error { return nil }, noFail: true},
		{name: "--scale gateway=5", do: func() error { return t.scale(5) }, noFail: true},
		{name: "--scale gateway=3", do: func() error { return t.scale(3) }, noFail: true},
		{name: "SIGTERM of one replica", do: t.drainOne, noFail: true, drains: true},
		{name: "rolling restart", do: t.rollingRestart, noFail: true, drains: true},
		{name: "a new release", do: func() error { _, err := t.block(blockRelease); return err }, noFail: true, drains: true},
		{name: "reload of HAProxy", do: t.reload, noFail: true},
		{name: "all replicas at once", do: func() error { return t.composeRestart("gateway") }},
		{name: "SIGKILL of one replica", do: t.killOne},
		{name: "restart of PostgreSQL", do: func() error { return t.composeRestart("postgres") }},
		{name: "restart of HAProxy", do: func() error { return t.composeRestart("haproxy") }},
	}
}

// underLoad runs all phases under one load and judges it as a whole.
func (t *test) underLoad() (err error) {
	key, err := t.shell("docker compose run --rm -T msg keys create -name load")
	if err != nil {
		return err
	}
	l := newLoad(t.url("RESTANTE_PORT"), t.url("RESTANTE_ISSUER_PORT"), strings.TrimSpace(key), t.users, t.devices)
	tokens, err := l.signInAll(t.ctx)
	if err != nil {
		return err
	}
	posting, stopPosting := context.WithCancel(t.ctx)
	reading, stopReading := context.WithCancel(t.ctx)
	var writers, readers, watcher sync.WaitGroup
	defer func() {
		stopPosting()
		writers.Wait()
		stopReading()
		readers.Wait()
		watcher.Wait()
	}()
	l.begin()
	for _, user := range l.users {
		for range t.devices {
			d := &device{load: l, user: user, idToken: tokens[user]}
			readers.Go(func() { d.run(reading) })
		}
	}
	w := &watch{load: l, want: int64(t.users * t.devices)}
	watcher.Go(func() { w.run(reading) })
	if err := w.calm(t.ctx, patience); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	writers.Go(func() { l.publish(posting, t.rate) })
	if err := pause(t.ctx, 3*time.Second); err != nil { // pools fill, plans are made
		return err
	}
	w.posting.Store(true)
	if err := w.calm(t.ctx, patience); err != nil {
		return fmt.Errorf("begin to post: %w", err)
	}

	// All the while the keyring is rotated, as the README says.
	var rotation error
	var rotating sync.WaitGroup
	defer rotating.Wait()
	rotating.Go(func() { rotation = t.rotate() })

	var failures []error
	t.say("   %-24s %8s %8s %8s %9s %10s %10s", "", "accepted", "failed", "lost", "slowest", "no 202 for", "well after")
	for _, p := range t.phases() {
		if err := t.runPhase(l, w, p); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", p.name, err))
			if t.ctx.Err() != nil {
				return errors.Join(failures...)
			}
		}
	}
	stopPosting()
	writers.Wait()
	rotating.Wait()
	if rotation != nil {
		failures = append(failures, fmt.Errorf("rotate the keyring: %w", rotation))
	}
	report, err := l.verdict(t.stack)
	if err != nil {
		failures = append(failures, err)
	}
	t.say("   %s", report)
	if !report.Clean() {
		failures = append(failures, wrong("the checker found violations"))
	}
	return errors.Join(failures...)
}

// runPhase does one thing, waits until all is well again, and says how that went.
func (t *test) runPhase(l *load, w *watch, p phase) error {
	l.begin()
	accepted, lost, began := l.accepted.Load(), l.lost.Load(), l.now()
	w.begin()
	if err := p.do(); err != nil {
		return err
	}
	if rest := t.phase - (l.now() - began); rest > 0 {
		if err := pause(t.ctx, rest); err != nil {
			return err
		}
	}
	calm := w.calm(t.ctx, patience)
	seen := l.end()
	disturbed := max(w.disturbed(), seen.lastFail, time.Duration(l.lastLate.Load()))
	recovery := "-"
	if disturbed > began {
		recovery = fmt.Sprintf("%.1f s", (disturbed - began).Seconds())
	}
	t.say("   %-24s %8d %8d %8d %6d ms %7d ms %10s", p.name, l.accepted.Load()-accepted, len(seen.failed), l.lost.Load()-lost,
		time.Duration(l.slowest.Load()).Milliseconds(), w.longestSilence().Milliseconds(), recovery)
	if n := len(seen.after); n > 0 {
		t.say("     %d devices were told to come back, after %d to %d ms", n, seen.after[0], seen.after[n-1])
	}
	for _, kind := range slices.Sorted(maps.Keys(seen.kinds)) {
		t.say("     failed POST, %d times: %s", seen.kinds[kind], kind)
	}
	if calm != nil {
		return calm
	}
	if p.drains && (len(seen.after) == 0 || seen.after[len(seen.after)-1]-seen.after[0] < 1000) {
		return wrong("devices were told to come back after %v ms: at random within five seconds, it should be", seen.after)
	}
	if p.noFail && len(seen.failed) > 0 {
		return wrong("%d POSTs failed, and none may: %s", len(seen.failed), seen.failed[0])
	}
	return nil
}

func (t *test) scale(n int) error {
	_, err := t.compose(fmt.Sprintf("up -d --scale gateway=%d", n))
	if err != nil {
		return err
	}
	ids, err := t.containers("gateway")
	if err == nil && len(ids) != n {
		err = wrong("%d replicas instead of %d", len(ids), n)
	}
	return err
}

func (t *test) composeRestart(service string) error {
	_, err := t.compose("restart " + service)
	return err
}

// rotate is left with one key, another one than before.
func (t *test) rotate() error {
	out, err := t.block(blockRotate)
	if err == nil && strings.Count(out, "opens") != 1 {
		err = wrong("the keyring is %q", out)
	}
	return err
}

func (t *test) rollingRestart() error {
	ids, err := t.containers("gateway")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := t.shell("docker restart " + id); err != nil {
			return err
		}
		if err := t.healthy(id); err != nil {
			return err
		}
	}
	return nil
}

// killOne kills the replica with the most connections the hard way and starts it again
// when others have taken over.
func (t *test) killOne() error {
	id, err := t.busiest()
	if err != nil {
		return err
	}
	if _, err := t.shell("docker kill -s KILL " + id); err != nil {
		return err
	}
	if err := pause(t.ctx, t.phase/2); err != nil {
		return err
	}
	if _, err := t.shell("docker start " + id); err != nil {
		return err
	}
	return t.healthy(id)
}

// busiest returns the container whose replica holds the most connections. A replica's
// id begins with its host's name, which is its container's short id.
func (s *stack) busiest() (string, error) {
	out, err := s.compose(`exec -T postgres psql -U restante -d restante -At -c "SELECT replica_id FROM sessions GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"`)
	if err != nil {
		return "", err
	}
	host, _, found := strings.Cut(strings.TrimSpace(out), "-")
	if !found {
		return "", wrong("no replica has connections: %q", out)
	}
	return host, nil
}

// drainOne stops a replica as docker does, and looks at each promise of a drain:
// readiness goes first, clients are told when to come back and not all at once, and it
// ends by itself, in time and with exit code 0.
func (t *test) drainOne() error {
	ids, err := t.containers("gateway")
	if err != nil {
		return err
	}
	id := ids[0]
	// The edge looks, in a loop that is at work before the replica is told to stop: the
	// two seconds that it goes on for are too few to start one in.
	out, err := t.shell(`id=` + id + `
address=$(docker inspect --format '{{(index .NetworkSettings.Networks "` + project + `_front").IPAddress}}' $id)
docker exec $(docker compose ps -q haproxy) timeout 60 bash -c '
	ask() ( exec 3<>/dev/tcp/'$address'/9090 && printf "GET /readyz HTTP/1.0\r\n\r\n" >&3 && cat <&3 )
	ask >/dev/null && echo looking
	until ask | grep "\"draining\":true"; do sleep 0.05; done' >../looking &
until grep -q looking ../looking; do sleep 0.1; kill -0 $!; done
began=$(date +%s%N)
docker stop $id >/dev/null
echo gone after $(( ($(date +%s%N) - began) / 1000000 )) ms, exit code and stop timeout \
	$(docker inspect --format '{{.State.ExitCode}} {{.Config.StopTimeout}}' $id)
wait $! || true
grep draining ../looking || true
docker start $id >/dev/null`)
	if err != nil {
		return err
	}
	t.say("     %s", firstLine(out))
	if !strings.Contains(out, "stop timeout 0 ") {
		return wrong("%s", firstLine(out))
	}
	if !strings.Contains(out, `"draining":true`) {
		return wrong("nobody saw /readyz say that it drains")
	}
	return t.healthy(id)
}
