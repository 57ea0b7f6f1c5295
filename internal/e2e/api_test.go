package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"restante/internal/checker"
)

// answer is an HTTP answer, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// problem is an RFC 9457 document.
type problem struct {
	Type   string
	Title  string
	Status int
	Detail string
	Limit  int64
}

// problem reads the answer as the problem document that it must be.
func (a answer) problem(t testing.TB, status int) problem {
	t.Helper()
	var p problem
	if a.status != status || a.header.Get("Content-Type") != "application/problem+json" {
		t.Fatalf("answer %d %s, want a problem of status %d: %.300s", a.status, a.header.Get("Content-Type"), status, a.body)
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatalf("problem document: %v: %.300s", err, a.body)
	}
	if p.Status != status || !strings.HasPrefix(p.Type, "urn:restante:problem:") || p.Title == "" || p.Detail == "" {
		t.Errorf("problem document is not complete: %s", a.body)
	}
	return p
}

// send sends a request to a replica. A nil error means that it was answered.
func (w *world) send(ctx context.Context, method, url, credential, body string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if credential != "" {
		request.Header.Set("Authorization", credential)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	return w.do(request)
}

func (w *world) do(request *http.Request) (answer, error) {
	response, err := w.web.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return answer{status: response.StatusCode, header: response.Header}, nil
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return answer{}, err
	}
	return answer{response.StatusCode, response.Header, text}, nil
}

// token gets a single-use token.
func (s *server) token(idToken string) (string, error) {
	a, err := s.w.send(s.t.Context(), "POST", s.url+"/v1/tokens", "Bearer "+idToken, "")
	if err != nil {
		return "", err
	}
	if a.status != http.StatusOK {
		return "", fmt.Errorf("token: %d %s", a.status, a.body)
	}
	var issued struct{ Token string }
	if err := json.Unmarshal(a.body, &issued); err != nil || issued.Token == "" {
		return "", fmt.Errorf("an answer without a token: %s", a.body)
	}
	s.w.secret(issued.Token)
	return issued.Token, nil
}

// publisher posts messages of its own, numbered, and tells the checker.
type publisher struct {
	w      *world
	number uint32
	n      uint64
}

// post posts the publisher's next message for a user, and returns the answer;
// ok is true for a 202. The error is that of a request without an answer.
func (p *publisher) post(ctx context.Context, s *server, user string) (a answer, ok bool, err error) {
	p.n++
	message, payload := p.w.check.Payload(p.number, p.n, 0, 100)
	return p.w.post(ctx, s, user, message, payload)
}

func (w *world) post(ctx context.Context, s *server, user string, message checker.Message, payload []byte) (a answer, ok bool, err error) {
	w.knows(user)
	w.check.Posted(user, message)
	name, err := json.Marshal(user)
	if err != nil {
		return answer{}, false, err
	}
	body := fmt.Sprintf(`{"userId":%s,"message":%s}`, name, payload)
	a, err = w.send(ctx, "POST", s.url+"/v1/messages", "Bearer "+w.key, body)
	switch {
	case err != nil, bytes.Contains(a.body, []byte("outcome-unknown")):
		w.check.Unknown(user, message)
		return a, false, err
	case a.status != http.StatusAccepted:
		w.check.Refused(user, message)
		return a, false, nil
	}
	seq := seqOf(w.t, a.body)
	if location := a.header.Get("Location"); !strings.HasSuffix(location, "/messages/"+strconv.FormatInt(seq, 10)) {
		w.t.Errorf("Location is %q for seq %d", location, seq)
	}
	w.check.Accepted(user, message, seq)
	return a, true, nil
}

// seqOf reads a 202.
func seqOf(t testing.TB, body []byte) int64 {
	t.Helper()
	var receipt struct{ Seq int64 }
	if err := json.Unmarshal(body, &receipt); err != nil || receipt.Seq < 1 {
		t.Errorf("202 without a seq: %s", body)
	}
	return receipt.Seq
}

// posts posts n messages that must all be accepted.
func (p *publisher) posts(s *server, user string, n int) {
	p.w.t.Helper()
	for range n {
		if a, ok, err := p.post(p.w.t.Context(), s, user); !ok {
			p.w.t.Fatalf("message for %s was not accepted: %d %s %v", user, a.status, a.body, err)
		}
	}
}
