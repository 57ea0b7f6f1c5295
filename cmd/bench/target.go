package main

import (
	"context"
	"strconv"
)

// target is a server under load. Users are 0, 1, 2 …; the checker and the
// gateway know them as bench-0, bench-1, ….
type target interface {
	publishing
	grouping
	subscribing
	ledger
}

// publishing is how a message is posted.
type publishing interface {
	// request appends a whole HTTP request to buf.
	request(buf []byte, user int, payload []byte) []byte
	// answer returns the seq in the body of a 202, 0 if this server tells none.
	answer(body []byte) (seq int64, err error)
}

// grouping is how several messages are posted with one request.
type grouping interface {
	// requestGroup appends a whole HTTP request to buf: payloads[i] for users[i].
	requestGroup(buf []byte, users []int, payloads [][]byte) []byte
	// answerGroup appends to seqs the seq of each of n messages in the body of a
	// 202, 0 for each if this server tells none.
	answerGroup(seqs []int64, body []byte, n int) ([]int64, error)
}

// subscribing is how a user's client connects, reads and confirms.
type subscribing interface {
	// open does all a client must do to connect, getting a token included.
	// Buffer is the size of the socket's read buffer.
	open(ctx context.Context, user, buffer int) (*socket, error)
	// parse understands a frame of the user's connection. It keeps nothing of it.
	parse(user int, text []byte) (frame, error)
	// confirm appends the frame that acknowledges f and all before it.
	confirm(buf []byte, f frame) []byte
}

// ledger is the database's own view, which has the last word.
type ledger interface {
	// streams returns what is stored for users 0 … users-1. Users nobody wrote
	// to may be missing.
	streams(ctx context.Context, users int) ([]stream, error)
	// behind reports whether any of users 0 … users-1 has something stored that
	// is not acknowledged. It is asked again and again, so it is cheap.
	behind(ctx context.Context, users int) (bool, error)
}

// stream is one user's state in the database.
type stream struct {
	user        int
	head, acked int64
}

type frameKind int

const (
	frameMessage frameKind = iota
	frameHello             // seq is head, acked is where the server starts
	frameGap               // seq … to will not come
	frameBye
	frameOther // nothing to do
)

// frame is one thing a server says.
type frame struct {
	kind    frameKind
	seq     int64
	id      int64 // the server's own number for it; seq if it numbers per user
	to      int64
	acked   int64
	payload []byte
	reason  string
}

func userName(user int) string { return "bench-" + strconv.Itoa(user) }
