package floor

import (
	"context"
	"net/http"
	"strconv"
	"sync"

	"github.com/coder/websocket"
)

// wakes knows which sockets wait for which user.
type wakes struct {
	mu sync.Mutex // guards of
	of map[int32]map[chan struct{}]struct{}
}

func (w *wakes) add(user int32) chan struct{} {
	wake := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of[user] == nil {
		w.of[user] = map[chan struct{}]struct{}{}
	}
	w.of[user][wake] = struct{}{}
	return wake
}

func (w *wakes) remove(user int32, wake chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.of[user], wake)
	if len(w.of[user]) == 0 {
		delete(w.of, user)
	}
}

// wake never blocks: a socket that has a wake waiting will look anyway.
func (w *wakes) wake(user int32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wake := range w.of[user] {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

// socket serves one client: one goroutine reads what it confirms, this one
// reads the table and writes. Nothing here has a deadline, which would cost a
// timer per frame: clients are bench's own and on this machine.
func (s *Server) socket(w http.ResponseWriter, r *http.Request) {
	user, err := userOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.sockets.Add(1) // before the hijack: until then Shutdown waits for this handler
	defer s.sockets.Done()
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer conn.CloseNow()

	// Registered before the first read: what is committed in between wakes it.
	wake := s.wakes.add(user)
	defer s.wakes.remove(user, wake)
	s.sockets.Go(func() { s.hear(ctx, cancel, conn, user) })

	var frame []byte
	for position := int64(0); ; {
		letters, err := s.behind(ctx, user, position)
		if err != nil {
			return
		}
		for _, l := range letters {
			frame = append(frame[:0], `{"seq":`...)
			frame = strconv.AppendInt(frame, l.ID, 10)
			frame = append(frame, `,"data":`...)
			frame = append(frame, l.Body...)
			frame = append(frame, '}')
			if conn.Write(ctx, websocket.MessageText, frame) != nil {
				return
			}
			position = l.ID
		}
		if len(letters) == page {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
	}
}

// hear passes on what the client confirms until the socket ends.
func (s *Server) hear(ctx context.Context, cancel context.CancelFunc, conn *websocket.Conn, user int32) {
	defer cancel()
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return
		}
		id, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil {
			return
		}
		select {
		case s.confirms <- confirm{user, id}:
		case <-ctx.Done():
			return
		}
	}
}
