package sample

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"restante/internal/identity"
)

const (
	// A message of MaxMessage bytes may arrive with every byte written as a
	// \u escape, six bytes long; the rest of the document is small.
	maxBody       = 6*MaxMessage + 8<<10
	maxCredential = 16 << 10 // bytes of an Authorization header
)

// traceparentPattern is the W3C trace context header, version 00.
var traceparentPattern = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)

// processRequest is the body of POST /process.
type processRequest struct {
	UserID  *string  `json:"userId"`  // the token's own user, or left out
	Message *string  `json:"message"` // the result to send when the work is done
	Wait    *float64 `json:"wait"`    // seconds of work
}

// processAnswer is what a 202 of POST /process says.
type processAnswer struct {
	TaskID string    `json:"taskId"`
	UserID string    `json:"userId"`
	Wait   float64   `json:"wait"` // seconds
	Due    timestamp `json:"due"`
}

// timestamp is written as RFC 3339 in UTC with milliseconds.
type timestamp time.Time

func (t timestamp) MarshalText() ([]byte, error) {
	return []byte(time.Time(t).UTC().Format("2006-01-02T15:04:05.000Z")), nil
}

// process is POST /process: it accepts a task and answers at once.
func (a *App) process(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		newProblem(http.StatusMethodNotAllowed, "Start a task with POST.").write(w)
		return
	}
	user, p := a.authenticate(r)
	if p != nil {
		p.write(w)
		return
	}
	req, p := readProcess(w, r)
	if p != nil {
		p.write(w)
		return
	}
	t, p := req.task(user.ID)
	if p != nil {
		p.write(w)
		return
	}
	if trace := r.Header.Get("Traceparent"); traceparentPattern.MatchString(trace) {
		t.traceparent = trace
	}
	switch err := a.start(r.Context(), t); {
	case err == nil:
		writeJSON(w, http.StatusAccepted, "application/json", processAnswer{
			TaskID: t.id, UserID: t.userID, Wait: t.wait.Seconds(), Due: timestamp(t.due),
		})
	case errors.Is(err, errFull):
		p := newProblem(http.StatusServiceUnavailable, "Too many tasks are in progress; try again a little later.")
		p.Limit = int64(a.cfg.MaxTasks)
		p.write(w)
	case errors.Is(err, errStopping):
		newProblem(http.StatusServiceUnavailable, "The application is stopping; try again in a few seconds.").write(w)
	default:
		newProblem(http.StatusServiceUnavailable, "The application is not ready; try again in a few seconds.").write(w)
	}
}

// authenticate finds the user of the request's ID token.
func (a *App) authenticate(r *http.Request) (identity.User, *problem) {
	credential := r.Header.Get("Authorization")
	// The seed's clients send the bare token, everybody else a scheme with it.
	if scheme, rest, found := strings.Cut(credential, " "); found && strings.EqualFold(scheme, "Bearer") {
		credential = rest
	}
	credential = strings.TrimSpace(credential)
	switch {
	case credential == "":
		return identity.User{}, newProblem(http.StatusUnauthorized, "Send the user's ID token in the Authorization header.")
	case len(credential) > maxCredential:
		return identity.User{}, newProblem(http.StatusUnauthorized, "The Authorization header is too long to be an ID token.")
	}
	user, err := a.cfg.Users.User(r.Context(), credential)
	switch {
	case err == nil:
		return user, nil
	case errors.Is(err, identity.ErrRejected):
		a.log.Info("ID token refused", "err", err)
		return identity.User{}, newProblem(http.StatusUnauthorized, "The ID token is not valid or has expired. Sign in again.")
	default:
		a.log.Warn("ID token could not be checked", "err", err)
		return identity.User{}, newProblem(http.StatusServiceUnavailable, "The identity provider cannot be reached; try again in a few seconds.")
	}
}

// readProcess decodes the body, or says what is wrong with it.
func readProcess(w http.ResponseWriter, r *http.Request) (processRequest, *problem) {
	var req processRequest
	if ct := r.Header.Get("Content-Type"); ct != "" {
		if media, _, err := mime.ParseMediaType(ct); err != nil || media != "application/json" {
			return req, newProblem(http.StatusUnsupportedMediaType, "The body must be JSON: send Content-Type: application/json.")
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		p := newProblem(http.StatusRequestEntityTooLarge, "The body is too long.")
		p.Limit = tooLong.Limit
		return req, p
	case err != nil:
		return req, newProblem(http.StatusBadRequest, "The body could not be read to its end.")
	case !utf8.Valid(body):
		// encoding/json would replace the bytes silently.
		return req, newProblem(http.StatusBadRequest, "The body is not valid UTF-8.")
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&req); err != nil {
		return req, newProblem(http.StatusBadRequest, explainJSON(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return req, newProblem(http.StatusBadRequest, "There is something after the JSON object.")
	}
	return req, nil
}

// explainJSON turns a decoding error into a sentence for the client.
func explainJSON(err error) string {
	const want = ` Expected {"message": "…", "wait": seconds, "userId": "…"}.`
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF):
		return "The body is empty." + want
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "The JSON ends too early." + want
	case errors.As(err, &syntax):
		return fmt.Sprintf("The body is not JSON, see byte %d.", syntax.Offset) + want
	case errors.As(err, &kind) && kind.Field == "":
		return "The body is not a JSON object." + want
	case errors.As(err, &kind):
		return fmt.Sprintf("%q has the wrong type: it is a %s.", kind.Field, kind.Value) + want
	}
	if name, found := strings.CutPrefix(err.Error(), "json: unknown field "); found {
		return fmt.Sprintf("Unknown field %.80s.", name) + want
	}
	return "The body is not the expected JSON." + want
}

// task checks the request's values and makes a task for the user of the token.
func (req processRequest) task(tokenUser string) (*task, *problem) {
	if req.UserID != nil && *req.UserID != tokenUser {
		return nil, newProblem(http.StatusForbidden, "A task's result can only be sent to the user of the ID token. Leave userId out, or give the token's own.")
	}
	if req.Message == nil {
		return nil, newProblem(http.StatusUnprocessableEntity, `"message" is missing: the text to send when the task is done.`)
	}
	message, err := encode(*req.Message)
	if err != nil {
		return nil, newProblem(http.StatusUnprocessableEntity, `"message" cannot be sent.`)
	}
	if len(message) > MaxMessage {
		p := newProblem(http.StatusRequestEntityTooLarge, fmt.Sprintf(`"message" is longer than %d bytes.`, MaxMessage))
		p.Limit = MaxMessage
		return nil, p
	}
	var seconds float64
	if req.Wait != nil {
		seconds = *req.Wait
	}
	if seconds < 0 || seconds > MaxWait.Seconds() {
		p := newProblem(http.StatusUnprocessableEntity, fmt.Sprintf(`"wait" must be between 0 and %d seconds.`, int(MaxWait.Seconds())))
		p.Limit = int64(MaxWait.Seconds())
		return nil, p
	}
	return newTask(tokenUser, message, time.Duration(seconds*float64(time.Second)), ""), nil
}
