// Package floor is what the gateway's figures are compared with: the cheapest
// server that still answers 202 only after a commit and keeps a message until a
// client has confirmed it. It promises nothing else. It has one replica, no
// seq per user, no tokens, no publishers, no limits, no idempotency, no
// presence, no expiry, and forgets who was behind when it stops. What the
// gateway costs above it is the price of the gateway's promises; what it costs
// less is skill.
//
//	POST /publish?user=N   any body up to 64 KiB; 202 once it is on disk
//	POST /publish-group    the same with a line "N BODY" for each message, at most 1 MiB
//	GET  /ws?user=N        text frames {"seq":S,"data":BODY}; the text frame S confirms up to S
//
// S rises per user but is numbered over all users. Messages go to disk in groups:
// one goroutine commits whatever has arrived while the last commit ran, and
// never waits for more. Every socket reads the table behind its own position.
//
// Failure: a commit that fails answers 500 to its whole group; a socket whose
// read or write fails is closed, and the client comes back.
package floor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	maxBody     = 64 << 10
	maxLines    = 1 << 20 // bytes of a group
	maxGroup    = 256     // messages per commit
	maxWaiting  = 4096    // posts that wait for a commit; more wait in their handler
	stopTimeout = 5 * time.Second
)

// schema drops and makes the one table. The floor starts empty every time.
const schema = `
DROP TABLE IF EXISTS floor;
CREATE TABLE floor (
	id      bigint GENERATED ALWAYS AS IDENTITY,
	user_id integer NOT NULL,
	body    bytea   NOT NULL,
	PRIMARY KEY (user_id, id)
)`

// Server is the floor. Use New, then Run.
type Server struct {
	db       *pgxpool.Pool
	log      *slog.Logger
	posts    chan *post
	confirms chan confirm
	wakes    wakes
	sockets  sync.WaitGroup
}

// post is a message on its way to disk. Done has room for its answer.
type post struct {
	user int32
	body []byte
	done chan error
}

// New makes a server on a database of its own; its table is dropped and made
// anew.
func New(ctx context.Context, db *pgxpool.Pool, log *slog.Logger) (*Server, error) {
	if _, err := db.Exec(ctx, schema); err != nil {
		return nil, fmt.Errorf("make the floor's table: %w", err)
	}
	return &Server{
		db: db, log: log,
		posts:    make(chan *post, maxWaiting),
		confirms: make(chan confirm, 1<<16),
		wakes:    wakes{of: map[int32]map[chan struct{}]struct{}{}},
	}, nil
}

// Run serves on the listener until the context ends, and closes it.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	loops, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var owned sync.WaitGroup
	owned.Go(func() { s.commits(loops) })
	owned.Go(func() { s.deletes(loops) })

	mux := http.NewServeMux()
	mux.HandleFunc("POST /publish", s.publish)
	mux.HandleFunc("POST /publish-group", s.publishGroup)
	mux.HandleFunc("GET /ws", s.socket)
	server := &http.Server{
		Handler:     mux,                                               // without timeouts, as its sockets are
		BaseContext: func(net.Listener) context.Context { return ctx }, // ends the sockets, which Shutdown does not know
	}
	owned.Go(func() {
		<-ctx.Done()
		within, cancel := context.WithTimeout(loops, stopTimeout)
		defer cancel()
		if err := server.Shutdown(within); err != nil {
			s.log.Warn("the floor did not stop in time", "err", err)
		}
		s.sockets.Wait()
		stop()
	})
	err := server.Serve(listener)
	if ctx.Err() == nil {
		stop()
		return fmt.Errorf("serve: %w", err)
	}
	owned.Wait()
	return nil
}

func userOf(r *http.Request) (int32, error) {
	n, err := strconv.ParseInt(r.URL.Query().Get("user"), 10, 32)
	if err != nil {
		return 0, errors.New("user must be an integer")
	}
	return int32(n), nil
}

func (s *Server) publish(w http.ResponseWriter, r *http.Request) {
	user, err := userOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the body could not be read", http.StatusBadRequest)
		return
	}
	p := &post{user, body, make(chan error, 1)}
	s.posts <- p
	if err := <-p.done; err != nil {
		http.Error(w, "not stored", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// publishGroup posts every line and waits for all of them.
func (s *Server) publishGroup(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLines))
	if err != nil {
		http.Error(w, "the body could not be read", http.StatusBadRequest)
		return
	}
	var posts []*post
	done := make(chan error, bytes.Count(text, []byte("\n")))
	for len(text) > 0 {
		line, rest, ended := bytes.Cut(text, []byte("\n"))
		number, body, spaced := bytes.Cut(line, []byte(" "))
		user, err := strconv.ParseInt(string(number), 10, 32)
		if err != nil || !spaced || !ended {
			http.Error(w, "every line must be a user, a space and a body", http.StatusBadRequest)
			return
		}
		posts, text = append(posts, &post{int32(user), body, done}), rest
	}
	for _, p := range posts {
		s.posts <- p
	}
	var failed error
	for range posts {
		failed = errors.Join(failed, <-done)
	}
	if failed != nil {
		http.Error(w, "not stored", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

// commits writes groups to disk, one after the other, so that ids rise in the
// order of commits and no reader can pass one that is still to come.
func (s *Server) commits(ctx context.Context) {
	const insert = `INSERT INTO floor (user_id, body) SELECT * FROM unnest($1::integer[], $2::bytea[])`
	group := make([]*post, 0, maxGroup)
	users, bodies := make([]int32, 0, maxGroup), make([][]byte, 0, maxGroup)
	for {
		group, users, bodies = group[:0], users[:0], bodies[:0]
		select {
		case <-ctx.Done():
			return
		case p := <-s.posts:
			group = append(group, p)
		}
		for more := true; more && len(group) < maxGroup; {
			select {
			case p := <-s.posts:
				group = append(group, p)
			default:
				more = false
			}
		}
		for _, p := range group {
			users, bodies = append(users, p.user), append(bodies, p.body)
		}
		_, err := s.db.Exec(ctx, insert, users, bodies)
		if err != nil {
			s.log.Error("group not stored", "messages", len(group), "err", err)
		}
		for _, p := range group {
			p.done <- err
			if err == nil {
				s.wakes.wake(p.user)
			}
		}
	}
}

type letter struct {
	ID   int64
	Body []byte
}

// page is how many messages a socket reads from the table at once.
const page = 100

func (s *Server) behind(ctx context.Context, user int32, position int64) ([]letter, error) {
	rows, err := s.db.Query(ctx, `SELECT id, body FROM floor WHERE user_id = $1 AND id > $2 ORDER BY id LIMIT $3`, user, position, page)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[letter])
}
