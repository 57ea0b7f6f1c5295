package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"restante/internal/checker"
	"restante/internal/events"
)

// publisher posts one request after the other, and numbers the messages that it
// posts to each user.
type publisher struct {
	w      *world
	number uint32
	counts map[*user]uint64
	queue  chan post
	keyed  []remembered // messages with keys that were accepted
}

// post is one request to make.
type post struct {
	r     *rand.Rand
	users []*user // a message for each; the same user may come again
	keyed bool    // with idempotency keys, and repeated until the outcome is known
	// impatient gives up on the answer after this time; 0 is patient.
	impatient time.Duration
	poisoned  bool // with a message that Postgres refuses among the others
}

// ttl draws how long a message lives. A key dies with its message: one that is
// posted again under its key must still be there.
func (q post) ttl() time.Duration {
	if q.keyed || !oneIn(q.r, 3) {
		return time.Hour
	}
	return between(q.r, 200*time.Millisecond, 2*time.Second).Truncate(time.Millisecond)
}

type remembered struct {
	message events.Message
	seq     int64
}

// letter is one message and what the checker calls it.
type letter struct {
	user    *user
	message events.Message
	checked checker.Message
}

// publishers starts n publishers; stop ends them when what is queued is posted.
func (w *world) publishers(n int) (all []*publisher, stop func()) {
	var running sync.WaitGroup
	for i := range n {
		p := &publisher{w: w, number: uint32(i + 1), counts: map[*user]uint64{}, queue: make(chan post, 4)}
		all = append(all, p)
		running.Go(func() {
			for q := range p.queue {
				p.post(q)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		for _, p := range all {
			close(p.queue)
		}
		running.Wait()
	})
	w.t.Cleanup(stop)
	return all, stop
}

func (p *publisher) post(q post) {
	letters := make([]letter, len(q.users))
	for i, u := range q.users {
		p.counts[u]++
		m, payload := p.w.chk.Payload(p.number, p.counts[u], 0, 32+q.r.IntN(200))
		letters[i] = letter{user: u, checked: m, message: events.Message{
			UserID: u.name, Payload: payload, Publisher: fmt.Sprint("p", p.number), TTL: q.ttl(),
		}}
		if q.keyed {
			letters[i].message.Key = fmt.Sprintf("%d/%d", p.number, p.counts[u])
		}
	}
	if len(p.keyed) > 0 && oneIn(q.r, 10) {
		p.again(q)
	}
	unknown := false // of an earlier try
	for try := 0; ; try++ {
		p.w.count("posts", 1)
		settle := func(bool) bool { return false }
		if q.keyed && !q.poisoned && oneIn(q.r, 6) {
			settle = p.twin(q, letters)
		}
		outcome := p.try(q, letters, unknown)
		if settle(outcome == isKnown) && outcome == isRefused {
			outcome = p.unknown(letters)
		}
		unknown = unknown || outcome == isUnknown
		if outcome == isKnown || !q.keyed || try == 20 {
			return
		}
		pause(between(q.r, 5*time.Millisecond, 100*time.Millisecond))
	}
}

// lockMemory is how long after the end of a fault its lock may still count: somebody
// waited for it, and held the stream in turn.
const lockMemory = 2 * time.Second

type outcome int

const (
	isKnown   outcome = iota // accepted, or refused for good
	isRefused                // refused for now
	isUnknown
)

// try posts once, to any replica, and tells the checker.
func (p *publisher) try(q post, letters []letter, unknown bool) outcome {
	rep := p.w.any(q.r)
	timeout := 10 * time.Second
	if q.impatient > 0 {
		timeout = q.impatient
	}
	ctx, cancel := context.WithTimeout(rep.ctx, timeout)
	defer cancel()
	msgs := make([]events.Message, 0, len(letters)+1)
	for _, l := range letters {
		msgs = append(msgs, l.message)
		if !unknown {
			l.checked.Until = time.Now().Add(l.message.TTL)
			p.w.chk.Posted(l.user.name, l.checked)
		}
	}
	poison := -1
	if q.poisoned {
		poison = q.r.IntN(len(msgs) + 1)
		msgs = slices.Insert(msgs, poison, poisonous(q.r))
	}
	start := time.Now()
	receipts, err := rep.Log.Append(ctx, msgs)
	switch {
	case err == nil:
		if poison >= 0 {
			receipts = slices.Delete(receipts, poison, poison+1)
		}
		for i, l := range letters {
			p.accepted(q, l, receipts[i])
		}
		return isKnown
	case errors.Is(err, events.ErrOutcomeUnknown) || !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, events.ErrOverloaded):
		p.w.count("outcomes unknown", 1)
		return p.unknown(letters)
	}
	p.w.count("posts refused", 1)
	if strings.Contains(err.Error(), "the stream is locked") {
		// Nobody's trouble is another's: only who posts to a stream that is held may be
		// told so.
		p.w.count("posts refused for a locked stream", 1)
		if !p.w.heldSince(start.Add(-lockMemory), q.users) {
			p.w.violate("publisher %d: refused for a locked stream, and nobody has held one of its %d users'", p.number, len(q.users))
		}
	}
	for _, l := range letters {
		if !unknown {
			p.w.chk.Refused(l.user.name, l.checked)
		}
	}
	return isRefused
}

// unknown tells the checker that nobody knows.
func (p *publisher) unknown(letters []letter) outcome {
	for _, l := range letters {
		p.w.chk.Unknown(l.user.name, l.checked)
	}
	return isUnknown
}

// twin posts the same messages with the same keys at the same time as try, as an
// impatient publisher's retry does: only one of the two is taken, whichever comes
// first. The function it returns waits for the twin and reports whether that may
// have been taken; accepted says whether try was.
func (p *publisher) twin(q post, letters []letter) func(accepted bool) bool {
	rep := p.w.any(q.r)
	msgs := make([]events.Message, len(letters))
	for i, l := range letters {
		msgs[i] = l.message
	}
	var receipts []events.Receipt
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(rep.ctx, 10*time.Second)
		defer cancel()
		receipts, err = rep.Log.Append(ctx, msgs)
	}()
	return func(accepted bool) bool {
		<-done
		if err != nil {
			return errors.Is(err, events.ErrOutcomeUnknown) || !errors.Is(err, events.ErrUnavailable)
		}
		p.w.count("twins", 1)
		for i, r := range receipts {
			switch {
			case r.Err != nil:
				p.w.violate("user %s: key %s, posted twice at once, was refused: %v", msgs[i].UserID, msgs[i].Key, r.Err)
			case accepted && p.keyed[len(p.keyed)-len(letters)+i].seq != r.Seq:
				p.w.violate("user %s: key %s, posted twice at once, is there twice", msgs[i].UserID, msgs[i].Key)
			}
		}
		return true
	}
}

// accepted takes the receipt of one message.
func (p *publisher) accepted(q post, l letter, receipt events.Receipt) {
	switch {
	case receipt.Err == nil && q.poisoned:
		p.w.violate("user %s: accepted as %d beside a message that was refused", l.user.name, receipt.Seq)
	case receipt.Err == nil:
		l.checked.Until = receipt.ExpiresAt
		p.w.chk.Accepted(l.user.name, l.checked, receipt.Seq)
		if l.message.TTL < time.Hour {
			p.w.count("accepted for a short time", 1)
		}
		p.w.count("accepted", 1)
		if q.keyed {
			p.keyed = append(p.keyed, remembered{l.message, receipt.Seq})
		}
	case q.poisoned:
		p.w.chk.Refused(l.user.name, l.checked)
	default:
		p.w.violate("user %s, publisher %d: refused: %v", l.user.name, p.number, receipt.Err)
	}
}

// again posts a message that was accepted before once more: it must find its
// first result.
func (p *publisher) again(q post) {
	old := p.keyed[q.r.IntN(len(p.keyed))]
	rep := p.w.any(q.r)
	ctx, cancel := context.WithTimeout(rep.ctx, 10*time.Second)
	defer cancel()
	receipts, err := rep.Log.Append(ctx, []events.Message{old.message})
	if err != nil {
		return // it is in the log or it is not: the audit counts
	}
	p.w.count("repeated posts", 1)
	if r := receipts[0]; r.Err != nil || !r.Repeated || r.Seq != old.seq {
		p.w.violate("user %s: key %s was accepted as %d, repeated it gave %+v", old.message.UserID, old.message.Key, old.seq, r)
	}
}

// poisoned is the user of messages that are refused.
const poisoned = "poison"

// poisonous makes a message that breaks a constraint, or is no text.
func poisonous(r *rand.Rand) events.Message {
	m := events.Message{UserID: poisoned, Payload: []byte(`1`), Publisher: "poisoner", TTL: time.Hour}
	if oneIn(r, 2) {
		m.UserID = strings.Repeat("x", 257)
	} else {
		m.Type = "\x00"
	}
	return m
}
