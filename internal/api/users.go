package api

import (
	"net/http"
	"strconv"
	"time"

	"restante/internal/events"
	"restante/internal/publishers"
)

// getMessage answers with the state of one message.
func (a *API) getMessage(x *exchange, r *http.Request) *problem {
	userID, p := a.readableUser(x, r)
	if p != nil {
		return p
	}
	seq, err := strconv.ParseInt(r.PathValue("seq"), 10, 64)
	if err != nil || seq < 1 {
		return &problem{kind: invalidRequest, field: "seq", detail: "A message is named by its seq, a whole number from 1."}
	}
	done, p := a.looking(x, r)
	if p != nil {
		return p
	}
	status, err := a.log.Status(r.Context(), userID, seq)
	done()
	if err != nil {
		return readFailed(r, err, unknownMessage)
	}
	b := a.buffers.get()
	defer a.buffers.put(b)
	*b = append(*b, `{"userId":`...)
	*b = appendString(*b, userID)
	*b = append(*b, `,"seq":`...)
	*b = strconv.AppendInt(*b, seq, 10)
	*b = append(*b, `,"state":`...)
	*b = appendString(*b, string(status.State))
	// Nobody knows the times of a message that has expired and is gone.
	if !status.AcceptedAt.IsZero() {
		*b = append(*b, `,"acceptedAt":`...)
		*b = appendTime(*b, status.AcceptedAt)
		*b = append(*b, `,"expiresAt":`...)
		*b = appendTime(*b, status.ExpiresAt)
	}
	*b = append(*b, "}\n"...)
	x.Header().Set("Cache-Control", "no-store")
	return x.answer(http.StatusOK, *b)
}

// getUser answers with a user's stream and sessions.
func (a *API) getUser(x *exchange, r *http.Request) *problem {
	userID, p := a.readableUser(x, r)
	if p != nil {
		return p
	}
	done, p := a.looking(x, r)
	if p != nil {
		return p
	}
	stream, err := a.log.Stream(r.Context(), userID)
	done()
	if err != nil {
		return readFailed(r, err, unknownUser)
	}
	b := a.buffers.get()
	defer a.buffers.put(b)
	*b = append(*b, `{"userId":`...)
	*b = appendString(*b, userID)
	*b = append(*b, `,"connected":`...)
	*b = strconv.AppendBool(*b, len(stream.Sessions) > 0)
	*b = append(*b, `,"pending":`...)
	*b = strconv.AppendInt(*b, stream.Head-stream.Acked, 10)
	*b = append(*b, `,"head":`...)
	*b = strconv.AppendInt(*b, stream.Head, 10)
	*b = append(*b, `,"acked":`...)
	*b = strconv.AppendInt(*b, stream.Acked, 10)
	*b = append(*b, `,"sessions":[`...)
	for i := range stream.Sessions {
		s := &stream.Sessions[i]
		if i > 0 {
			*b = append(*b, ',')
		}
		*b = append(*b, `{"session":`...)
		*b = appendString(*b, s.SessionID)
		*b = append(*b, `,"replica":`...)
		*b = appendString(*b, s.ReplicaID)
		*b = append(*b, `,"transport":`...)
		*b = appendString(*b, s.Transport)
		*b = append(*b, `,"connectedAt":`...)
		*b = appendTime(*b, s.ConnectedAt)
		*b = append(*b, '}')
	}
	*b = append(*b, "]}\n"...)
	x.Header().Set("Cache-Control", "no-store")
	return x.answer(http.StatusOK, *b)
}

// readableUser returns the path's user, if the publisher may read about it.
func (a *API) readableUser(x *exchange, r *http.Request) (string, *problem) {
	from, p := a.publisher(x, r, publishers.ScopeRead)
	if p != nil {
		return "", p
	}
	userID := r.PathValue("user")
	if err := events.ValidUserID(userID); err != nil {
		return "", badUserID(invalidRequest, "user", err)
	}
	return userID, from.reaches(userID)
}

func readFailed(r *http.Request, err error, missing *kind) *problem {
	if r.Context().Err() != nil {
		return &problem{kind: unavailable, detail: "The request ended before its answer was known.", cause: err}
	}
	return logProblem(err, missing)
}

// looksAtOnce is how many requests for a status look into Postgres at the same time:
// half of the default pool, for tokens and connects need it too.
const looksAtOnce = 4

// looking waits for a publisher's turn to look something up, and returns what to call
// after it.
func (a *API) looking(x *exchange, r *http.Request) (done func(), _ *problem) {
	if err := a.looks.take(r.Context(), x.credential, 1, lookPatience); err != nil {
		return nil, &problem{kind: overloaded, cause: err,
			detail: "More is asked for than can be looked up. Repeat the request after the time in Retry-After."}
	}
	return func() { a.looks.put(x.credential, 1) }, nil
}

const lookPatience = 10 * time.Second
