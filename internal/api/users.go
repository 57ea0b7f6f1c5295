package api

import (
	"net/http"
	"strconv"

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
	status, err := a.log.Status(r.Context(), userID, seq)
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
	stream, err := a.log.Stream(r.Context(), userID)
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
