package events

import (
	"context"
	"sync"
)

// turns lets the readers of one user go one after the other, so that a user with
// many sessions takes no more than one place among the users.
type turns struct {
	mu    sync.Mutex // guards users
	users map[string]*turn
}

type turn struct {
	room  chan struct{} // has room for one
	count int           // who holds it or waits for it
}

func newTurns() *turns { return &turns{users: map[string]*turn{}} }

// take waits for the user's turn. The caller must call release.
func (t *turns) take(ctx context.Context, user string) (release func(), err error) {
	t.mu.Lock()
	u := t.users[user]
	if u == nil {
		u = &turn{room: make(chan struct{}, 1)}
		t.users[user] = u
	}
	u.count++
	t.mu.Unlock()
	select {
	case u.room <- struct{}{}:
		return func() { <-u.room; t.leave(user, u) }, nil
	case <-ctx.Done():
		t.leave(user, u)
		return nil, ctx.Err()
	}
}

func (t *turns) leave(user string, u *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.count--; u.count == 0 {
		delete(t.users, user)
	}
}
