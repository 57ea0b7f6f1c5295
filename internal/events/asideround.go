package events

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// round looks at every stream that is aside once, and commits what it can. It
// returns how long to wait for the next one.
func (s *aside) round(ctx context.Context) (next time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, commitTimeout)
	defer cancel()
	s.expire(time.Now())
	start := time.Now()
	free, missing, err := s.store.look(ctx, s.users())
	if err != nil {
		return asideEvery // a table is locked, Postgres is away
	}
	took := time.Since(start)
	s.release(free)
	for time.Since(start) < asideRound {
		if n, _ := s.attempt(ctx, s.batch(free, false), lockMode{}); n == 0 {
			break
		}
	}
	s.release(free)
	if young := s.waitFor(ctx, missing); young {
		return max(asideSoon, 4*took)
	}
	return max(asideEvery, 4*took)
}

// waitFor waits for streams, unless somebody does so already: for those that there
// are not, which may be just being created, and for one that is locked at every look.
// A stream under traffic is free for moments only, which a look now and then may never
// meet; whoever waits for it is served in turn. young: one was found locked only now.
func (s *aside) waitFor(ctx context.Context, missing map[string]bool) (young bool) {
	locked := s.waited(missing, &young)
	select {
	case s.waiting <- struct{}{}:
	default:
		return young
	}
	create := s.oldest(missing)
	locked = locked[:min(1, len(locked))]
	if len(create)+len(locked) == 0 {
		<-s.waiting
		return young
	}
	users := append(slices.Clone(create), locked...)
	s.setBusy(users, true)
	s.waits.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		defer cancel()
		s.create(ctx, create, time.Now().Add(asideRound))
		for _, user := range locked {
			if _, timeout := s.attempt(ctx, s.batch(map[string]bool{user: true}, true), lockMode{first: user, wait: asideWait}); timeout {
				s.waitedInVain(user)
			}
		}
		s.setBusy(users, false)
		<-s.waiting
	})
	return young
}

// waited returns the streams that there are and that are locked for long, those that
// were waited for least first.
func (s *aside) waited(missing map[string]bool, young *bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	long := map[string]bool{}
	for user, stream := range s.streams {
		if time.Since(stream.since) < asideLong {
			*young = true
			continue
		}
		if !missing[user] {
			long[user] = true
		}
	}
	return s.inTurn(long)
}

func (s *aside) setBusy(users []string, busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, user := range users {
		if stream := s.streams[user]; stream != nil {
			stream.busy = busy
		}
	}
}

// lookFreeSQL tells whether streams are free. It waits for nobody, and lets go of what it has
// locked at its end.
const lookFreeSQL = `
WITH free AS MATERIALIZED (SELECT user_id FROM streams WHERE user_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED)
SELECT user_id, user_id IN (SELECT user_id FROM free) FROM streams WHERE user_id = ANY($1)`

// look tells which streams nobody has locked, and which there are not: those may be
// free, or just being created.
func (s *appendStore) look(ctx context.Context, users map[string]bool) (free, missing map[string]bool, err error) {
	rows, err := s.pool.Query(ctx, lookFreeSQL, slices.Collect(maps.Keys(users)))
	if err != nil {
		return nil, nil, err
	}
	free, missing = map[string]bool{}, users
	var user string
	var isFree bool
	_, err = pgx.ForEachRow(rows, []any{&user, &isFree}, func() error {
		delete(missing, user)
		if isFree {
			free[user] = true
		}
		return nil
	})
	return free, missing, err
}

func (s *aside) users() map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	users := make(map[string]bool, len(s.streams))
	for user := range s.streams {
		users[user] = true
	}
	return users
}

// expire answers requests whose time is up, and forgets streams that nobody asks for.
func (s *aside) expire(now time.Time) {
	s.mu.Lock()
	var late []*appendRequest
	for user, stream := range s.streams {
		if stream.busy {
			continue
		}
		late = append(late, s.remove(stream, func(r asideRequest) bool { return now.After(r.until) })...)
		if len(stream.requests) == 0 && now.Sub(stream.used) > asideKnown {
			delete(s.streams, user)
		}
	}
	s.mu.Unlock()
	s.log.failed(late, errStreamLocked)
}

// release ends the separation of streams that are free and have nothing aside.
func (s *aside) release(free map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for user := range free {
		if stream := s.streams[user]; stream != nil && len(stream.requests) == 0 && !stream.busy {
			delete(s.streams, user)
		}
	}
}

// batch takes a commit's worth of the requests of streams: the oldest of each, then
// the second of each, and so on. They stay aside until they are answered. busy: the
// caller is who waits for these streams.
func (s *aside) batch(users map[string]bool, busy bool) (batch []asideRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	msgs, bytes := 0, 0
	for i, more := 0, true; more; i++ {
		more = false
		for user := range users {
			stream := s.streams[user]
			if stream == nil || stream.busy != busy || i >= len(stream.requests) {
				continue
			}
			r := stream.requests[i]
			msgs, bytes = msgs+len(r.msgs), bytes+r.bytes
			if len(batch) > 0 && (msgs > batchMessages || bytes > batchBytes) {
				return batch
			}
			batch = append(batch, r)
			more = true
		}
	}
	return batch
}

// oldest returns those of the users who have something aside, those that were waited
// for least first.
func (s *aside) oldest(users map[string]bool) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inTurn(users)
}

func (s *aside) inTurn(users map[string]bool) (found []string) {
	for user := range users {
		if stream := s.streams[user]; stream != nil && len(stream.requests) > 0 && !stream.busy {
			found = append(found, user)
		}
	}
	slices.SortFunc(found, func(x, y string) int {
		a, b := s.streams[x], s.streams[y]
		return cmp.Or(cmp.Compare(a.waits, b.waits), a.since.Compare(b.since), cmp.Compare(x, y))
	})
	return found
}

// create tries streams that there are not. Whoever is creating one makes a whole
// statement wait, and the error does not say which it is: halves are tried until it
// does.
func (s *aside) create(ctx context.Context, users []string, end time.Time) {
	if len(users) == 0 || time.Now().After(end) {
		return
	}
	these := map[string]bool{}
	for _, user := range users {
		these[user] = true
	}
	_, locked := s.attempt(ctx, s.batch(these, true), lockMode{create: true, wait: asideCreate})
	switch {
	case !locked:
	case len(users) == 1:
		s.waitedInVain(users[0])
	default:
		s.create(ctx, users[:len(users)/2], end)
		s.create(ctx, users[len(users)/2:], end)
	}
}

func (s *aside) waitedInVain(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stream := s.streams[user]; stream != nil {
		stream.waits++
	}
}

// attempt commits those of the requests whose streams it could lock, and returns how
// many it answered. locked: none, for a stream that it had to wait for was not free in
// time.
func (s *aside) attempt(ctx context.Context, batch []asideRequest, mode lockMode) (answered int, locked bool) {
	if len(batch) == 0 {
		return 0, false
	}
	requests := make([]*appendRequest, len(batch))
	for i, r := range batch {
		requests[i] = r.appendRequest
	}
	done, err := s.store.writeFree(ctx, requests, mode)
	_, rolledBack := refused(err)
	switch {
	case err == nil:
		left := s.take(batch, done.requests)
		s.log.committed(done.requests, done.heads)
		s.hold(left, done.locked) // each in the line of the stream that it waits for
		return len(done.requests), false
	case lockTimeout(err):
		return 0, true
	case lostRace(err):
		return 0, false
	case rolledBack && len(batch) > 1: // one bad message must not fail the others
		m, _ := s.attempt(ctx, batch[:len(batch)/2], mode)
		n, _ := s.attempt(ctx, batch[len(batch)/2:], mode)
		return m + n, false
	}
	s.take(batch, requests)
	s.log.failed(requests, err)
	return len(requests), false
}

// take takes a batch out of its lines, and returns the requests that are not done.
func (s *aside) take(batch []asideRequest, done []*appendRequest) (left []asideRequest) {
	isDone := make(map[*appendRequest]bool, len(done))
	for _, r := range done {
		isDone[r] = true
	}
	tried, lines := make(map[*appendRequest]bool, len(batch)), map[*asideStream]bool{}
	for _, r := range batch {
		tried[r.appendRequest], lines[r.stream] = true, true
		if !isDone[r.appendRequest] {
			left = append(left, r)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range lines {
		s.remove(line, func(r asideRequest) bool { return tried[r.appendRequest] })
	}
	return left
}
