package events

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
)

// The append refuses messages of a user who has too many pending: appendSQL leaves
// such a stream alone, under its lock, so the bound holds across replicas. Before the
// publisher is told, a request for one user gets a second chance: what has expired
// does not count, and of several requests in one commit some may fit.

const (
	overfullRequests = 256         // that may wait for their second chance
	overfullFor      = time.Second // for which a user without any room is not looked at again
	overfullTimeout  = 5 * time.Second
)

// TooManyPendingError is the error of a receipt whose user has too many messages
// pending. It is an ErrTooManyPending.
type TooManyPendingError struct{ Limit int64 }

func (e *TooManyPendingError) Error() string {
	return fmt.Sprintf("%v: %d", ErrTooManyPending, e.Limit)
}

// Is makes it an ErrTooManyPending.
func (e *TooManyPendingError) Is(target error) bool { return target == ErrTooManyPending }

// mostPending is the bound as appendSQL takes it.
func (s *appendStore) mostPending() int64 {
	if s.maxPending <= 0 {
		return math.MaxInt64 / 2 // which can be added to
	}
	return s.maxPending
}

// overfull gives the requests of users who have too many messages pending their
// second chance, one batch after the other.
type overfull struct {
	log    *Log
	queue  chan *appendRequest
	noRoom map[string]time.Time // users who had none, and when; run's alone
}

func newOverfull(l *Log) *overfull {
	return &overfull{log: l, queue: make(chan *appendRequest, overfullRequests), noRoom: map[string]time.Time{}}
}

// takes reports whether a request was refused as a whole and gets a second chance.
func (o *overfull) takes(r *appendRequest) bool {
	if o == nil || r.again || len(r.msgs) == 0 {
		return false
	}
	for i := range r.msgs {
		if r.msgs[i].UserID != r.msgs[0].UserID || !errors.Is(r.receipts[i].Err, ErrTooManyPending) {
			return false
		}
	}
	select {
	case o.queue <- r:
		return true
	default:
		return false
	}
}

// run gives second chances until ctx ends, and then answers what is left.
func (o *overfull) run(ctx context.Context) {
	for {
		select {
		case first := <-o.queue:
			o.retry(ctx, o.gather(first))
		case <-ctx.Done():
			for _, r := range o.gather(nil) {
				o.refuse(r)
			}
			return
		}
	}
}

func (o *overfull) gather(first *appendRequest) (requests []*appendRequest) {
	if first != nil {
		requests = append(requests, first)
	}
	for {
		select {
		case r := <-o.queue:
			requests = append(requests, r)
		default:
			return requests
		}
	}
}

// retry appends those of the requests that fit, in the order of their arrival.
func (o *overfull) retry(ctx context.Context, requests []*appendRequest) {
	for user, when := range o.noRoom {
		if time.Since(when) > overfullFor {
			delete(o.noRoom, user)
		}
	}
	room := map[string]int64{}
	for _, r := range requests {
		user := r.msgs[0].UserID
		if _, known := room[user]; !known {
			room[user] = o.room(ctx, user)
		}
		if room[user] < int64(len(r.msgs)) {
			o.refuse(r)
			continue
		}
		room[user] -= int64(len(r.msgs))
		r.again = true
		if err := o.log.enqueue(r); err != nil {
			r.err = err
			close(r.done)
		}
	}
}

// refuse answers a request with the receipts it has.
func (o *overfull) refuse(r *appendRequest) {
	o.log.appends.countPending(r)
	close(r.done)
}

// room passes over what has expired at the front of a user's stream and returns how
// many messages may become pending.
func (o *overfull) room(ctx context.Context, user string) int64 {
	if _, none := o.noRoom[user]; none {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, overfullTimeout)
	defer cancel()
	limit := o.log.appends.store.mostPending()
	head, acked, err := o.log.ends(ctx, user)
	if err == nil && head > acked {
		if _, err = o.log.stepOver(ctx, user, acked, head); err == nil {
			head, acked, err = o.log.ends(ctx, user)
		}
	}
	if err != nil {
		return 0
	}
	room := limit - (head - acked)
	if room <= 0 {
		o.noRoom[user] = time.Now()
	}
	return room
}

// ends returns a stream's head and acked position, both 0 if there is none.
func (l *Log) ends(ctx context.Context, user string) (head, acked int64, err error) {
	err = l.cfg.Relaxed.QueryRow(ctx, `SELECT head, acked FROM streams WHERE user_id = $1`, user).Scan(&head, &acked)
	if errors.Is(err, pgx.ErrNoRows) {
		err = nil
	}
	return head, acked, err
}
