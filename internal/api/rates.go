package api

import (
	"fmt"
	"math"
	"strconv"
	"sync"
	"time"

	"restante/internal/publishers"
)

// maxAllowances is how many credentials' allowances are kept: far above the number
// of back ends. One that is forgotten begins with a full second's worth.
const maxAllowances = 10_000

// Units of rates, in problem documents and metrics.
const (
	unitMessages = "messages/s"
	unitBytes    = "bytes/s"
)

// rates limits what each credential posts a second on this replica.
//
// A request is taken as a whole, or refused as a whole before anything of it is
// accepted. It may be larger than what a second allows, for else a key with 100
// messages a second could never post an array of 1000: what it takes too much is
// missing afterwards.
type rates struct {
	messages, bytes int64 // defaults; 0 for none
	now             func() time.Time

	mu         sync.Mutex
	allowances map[string]*allowance
}

// allowance is what is left of a credential's second.
type allowance struct{ messages, bytes bucket }

func newRates(messages, bytes int64) *rates {
	return &rates{messages: messages, bytes: bytes, now: time.Now, allowances: map[string]*allowance{}}
}

// limits are a credential's rates; 0 for none.
type limits struct{ messages, bytes int64 }

func (l *rates) limits(own publishers.Rates) limits {
	m := limits{l.messages, l.bytes}
	if own.Messages != nil {
		m.messages = *own.Messages
	}
	if own.Bytes != nil {
		m.bytes = *own.Bytes
	}
	return m
}

// take takes messages and bytes from what a publisher may post, or says why not. With
// 0 it only looks.
func (l *rates) take(from *publisher, messages, bytes int) *problem {
	m := from.limits
	if m.messages == 0 && m.bytes == 0 {
		return nil
	}
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.allowances[from.credential]
	if a == nil {
		a = &allowance{}
		l.makeRoom(now)
		l.allowances[from.credential] = a
	}
	if wait := a.messages.refill(m.messages, now); wait > 0 {
		return rateExceeded("messages", unitMessages, m, m.messages, wait)
	}
	if wait := a.bytes.refill(m.bytes, now); wait > 0 {
		return rateExceeded("bytes", unitBytes, m, m.bytes, wait)
	}
	a.messages.left -= float64(messages)
	a.bytes.left -= float64(bytes)
	return nil
}

// makeRoom drops the allowances that are whole again, and if all are in use, any
// tenth of them.
func (l *rates) makeRoom(now time.Time) {
	if len(l.allowances) < maxAllowances {
		return
	}
	for credential, a := range l.allowances {
		if a.messages.whole(now) && a.bytes.whole(now) {
			delete(l.allowances, credential)
		}
	}
	for credential := range l.allowances {
		if len(l.allowances) < maxAllowances-maxAllowances/10 {
			return
		}
		delete(l.allowances, credential)
	}
}

// bucket fills at a rate a second, up to that much. (x/time/rate's refuses for ever
// what is more than its burst.)
type bucket struct {
	rate float64
	left float64 // below 0 after a request that was larger than what was left
	at   time.Time
}

// refill brings the bucket up to date and returns how long it takes until something
// may be taken.
func (b *bucket) refill(rate int64, now time.Time) (wait time.Duration) {
	if rate == 0 {
		*b = bucket{}
		return 0
	}
	if b.rate == 0 {
		b.left, b.at = float64(rate), now
	}
	b.rate = float64(rate)
	if passed := now.Sub(b.at); passed > 0 {
		b.left, b.at = b.left+passed.Seconds()*b.rate, now
	}
	b.left = min(b.left, b.rate)
	if b.left >= 1 {
		return 0
	}
	return time.Duration((1 - b.left) / b.rate * float64(time.Second))
}

func (b *bucket) whole(now time.Time) bool {
	return b.left+now.Sub(b.at).Seconds()*b.rate >= b.rate
}

// rateExceeded is the problem of a publisher that is over one of its limits.
func rateExceeded(policy, unit string, m limits, limit int64, wait time.Duration) *problem {
	seconds := int(math.Ceil(wait.Seconds()))
	return &problem{kind: rateLimited, limit: limit, unit: unit, retryIn: seconds,
		rateLimit: fmt.Sprintf(`"%s";r=0;t=%d`, policy, seconds), policies: m.policies(),
		detail: "This credential may post " + strconv.FormatInt(limit, 10) + " " + unit + " to a replica. Nothing was accepted; repeat the request after the time in Retry-After, or ask the operator for a higher rate."}
}

// policies is the value of RateLimit-Policy, as of draft-ietf-httpapi-ratelimit-headers-10.
func (m limits) policies() string {
	text := ""
	if m.messages > 0 {
		text = fmt.Sprintf(`"messages";q=%d;w=1`, m.messages)
	}
	if m.bytes > 0 {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf(`"bytes";q=%d;qu="content-bytes";w=1`, m.bytes)
	}
	return text
}
