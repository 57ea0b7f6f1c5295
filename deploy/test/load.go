package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"restante/internal/checker"
)

// load is publishers and devices at work through the published port, and the checker
// that watches all of it.
type load struct {
	gateway string // URL of the published port
	issuer  string
	key     string
	users   []string
	devices int
	web     *http.Client
	check   *checker.Checker
	began   time.Time // all times are counted from here

	connected, lost atomic.Int64 // devices connected now, connections lost so far
	accepted        atomic.Int64
	lastAccepted    atomic.Int64 // when
	lastLate        atomic.Int64 // when something last arrived that took longer than late
	slowest         atomic.Int64 // delivery since the phase began

	mu       sync.Mutex      // guards what is below
	has      map[string]bool // users for whom something was accepted
	failed   []string        // posts since the phase began
	lastFail time.Duration
	byes     []frame
	errors   map[string]int // of devices, since the phase began
}

const (
	publishers  = 20
	messageSize = 256
	late        = time.Second
	postWithin  = 15 * time.Second
	retryWithin = time.Minute
)

func newLoad(gateway, issuer, key string, users, devices int) *load {
	l := &load{
		gateway: gateway, issuer: issuer, key: key, devices: devices, check: checker.New(), began: time.Now(), has: map[string]bool{},
		web: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: publishers, IdleConnTimeout: 30 * time.Second}, Timeout: 0},
	}
	for i := range users {
		l.users = append(l.users, "load-"+strconv.Itoa(i))
	}
	return l
}

func (l *load) now() time.Duration { return time.Since(l.began) }

// signInAll makes every user, a few at a time: the issuer's hashes are slow on purpose.
func (l *load) signInAll(ctx context.Context) (map[string]string, error) {
	tokens := map[string]string{}
	var mu sync.Mutex
	var group sync.WaitGroup
	var failure error
	for part := range 4 {
		group.Go(func() {
			for i := part; i < len(l.users); i += 4 {
				token, err := l.signIn(ctx, l.users[i])
				mu.Lock()
				tokens[l.users[i]], failure = token, errors.Join(failure, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	group.Wait()
	return tokens, failure
}

// publish posts this many messages a second until ctx ends.
func (l *load) publish(ctx context.Context, rate int) {
	var group sync.WaitGroup
	for i := range publishers {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 7))
			tick := time.NewTicker(publishers * time.Second / time.Duration(rate))
			defer tick.Stop()
			for n := uint64(1); ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				l.post(context.WithoutCancel(ctx), uint32(i+1), n, l.users[random.IntN(len(l.users))])
			}
		})
	}
	group.Wait()
}

// post posts one message until it is accepted, each time with the same idempotency
// key. Every time it is not, is a failed POST.
func (l *load) post(ctx context.Context, publisher uint32, n uint64, user string) {
	m, payload := l.check.Payload(publisher, n, int64(l.now()), messageSize)
	body := fmt.Appendf(nil, `{"userId":%q,"message":%s}`, user, payload)
	l.check.Posted(user, m)
	for until := time.Now().Add(retryWithin); ; {
		seq, err := l.postOnce(ctx, fmt.Sprintf("%d-%d", publisher, n), body)
		if err == nil {
			l.check.Accepted(user, m, seq)
			l.acceptedFor(user)
			return
		}
		l.check.Unknown(user, m)
		l.failedPost(err)
		var status *statusError
		if errors.As(err, &status) && status.status/100 == 4 || time.Now().After(until) {
			return
		}
		_ = pause(ctx, 50*time.Millisecond+rand.N(100*time.Millisecond)) // ctx has no end
	}
}

func (l *load) postOnce(ctx context.Context, key string, body []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, postWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, l.gateway+"/v1/messages", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	// Without it the transport cannot send again by itself, which it does for
	// requests with an idempotency key: here every failure counts.
	request.GetBody = nil
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+l.key)
	request.Header.Set("Idempotency-Key", key)
	var answer struct{ Seq int64 }
	err = l.do(request, &answer)
	return answer.Seq, err
}

func (l *load) acceptedFor(user string) {
	l.accepted.Add(1)
	l.lastAccepted.Store(int64(l.now()))
	l.mu.Lock()
	defer l.mu.Unlock()
	l.has[user] = true
}

func (l *load) failedPost(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = append(l.failed, err.Error())
	l.lastFail = l.now()
}

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors[fmt.Sprintf(format, args...)]++
}

func (l *load) bye(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.byes = append(l.byes, f)
}

// arrived notes how long a message took from its POST to a device.
func (l *load) arrived(sent int64) {
	took := int64(l.now()) - sent
	for old := l.slowest.Load(); took > old && !l.slowest.CompareAndSwap(old, took); old = l.slowest.Load() {
	}
	if took > int64(late) {
		l.lastLate.Store(int64(l.now()))
	}
}

// verdict waits until everything has arrived and is acknowledged, and judges.
func (l *load) verdict(s *stack) (checker.Report, error) {
	err := s.eventually(func() error {
		if n := l.check.Waiting(); n > 0 {
			return wrong("%d messages have not arrived", n)
		}
		return nil
	})
	if err != nil {
		return l.check.Report(), err
	}
	var logs map[string]position
	err = s.eventually(func() (err error) {
		logs, err = s.logs()
		for user, at := range logs {
			if err == nil && at.acked != at.head {
				err = wrong("%s is acknowledged up to %d of %d", user, at.acked, at.head)
			}
		}
		return err
	})
	for user, at := range logs {
		l.check.Stream(user, at.head, at.acked)
	}
	for user := range l.has { // nobody posts any more
		if _, ok := logs[user]; !ok {
			err = errors.Join(err, wrong("something was accepted for %s, who has no log", user))
		}
	}
	return l.check.Report(), err
}

type position struct{ head, acked int64 }

// logs asks Postgres what the logs of the load's users hold.
func (s *stack) logs() (map[string]position, error) {
	out, err := s.compose(`exec -T postgres psql -U restante -d restante -At -F ' ' -c "SELECT user_id, head, acked FROM streams WHERE user_id LIKE 'load-%'"`)
	if err != nil {
		return nil, err
	}
	logs := map[string]position{}
	for line := range strings.Lines(out) {
		var user string
		var at position
		if _, err := fmt.Sscan(line, &user, &at.head, &at.acked); err != nil {
			return nil, fmt.Errorf("stream %q: %w", line, err)
		}
		logs[user] = at
	}
	return logs, nil
}
