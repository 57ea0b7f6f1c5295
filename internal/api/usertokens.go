package api

import (
	"errors"
	"net/http"

	"restante/internal/tokens"
)

// postTokens issues a token for the user whose ID token is the bearer.
func (a *API) postTokens(x *exchange, r *http.Request) *problem {
	return a.issueToken(x, r, false)
}

// getTokens is the seed's path: the ID token comes without a scheme.
func (a *API) getTokens(x *exchange, r *http.Request) *problem {
	return a.issueToken(x, r, true)
}

func (a *API) issueToken(x *exchange, r *http.Request, bare bool) *problem {
	user, p := a.user(r, bare)
	if p != nil {
		return p
	}
	if p := a.issues.check(user.ID, "Ask again after the time in Retry-After."); p != nil {
		return p
	}
	token, expires, err := a.tokens.Issue(r.Context(), user.ID, user.Username)
	if err != nil {
		return tokenProblem(r, err)
	}
	b := a.buffers.get()
	defer a.buffers.put(b)
	*b = append(*b, `{"token":`...)
	*b = appendString(*b, token)
	*b = append(*b, `,"expiresAt":`...)
	*b = appendTime(*b, expires)
	*b = append(*b, "}\n"...)
	x.Header().Set("Cache-Control", "no-store")
	return x.answer(http.StatusOK, *b)
}

func tokenProblem(r *http.Request, err error) *problem {
	switch {
	case errors.Is(err, tokens.ErrRejected):
		return &problem{kind: unauthenticated, cause: err,
			detail: "The token was rejected: " + tokenReason(tokens.ReasonOf(err)) + ". A token opens one connection, within its half minute; get a new one from POST /v1/tokens."}
	case errors.Is(err, tokens.ErrUnavailable), r.Context().Err() != nil:
		return &problem{kind: identityUnavailable, cause: err,
			detail: "Tokens cannot be issued or redeemed now. Repeat the request, with a new token, after the time in Retry-After."}
	}
	return &problem{kind: internalError, detail: internalDetail, cause: err}
}

// tokenReason says in plain words why a token was rejected: as much as helps an
// honest client. The exact reason is in the log.
func tokenReason(why tokens.Reason) string {
	switch why {
	case tokens.ReasonExpired:
		return "it has expired"
	case tokens.ReasonUsed:
		return "it was used before"
	default:
		return "it is not a token of this gateway"
	}
}
