package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// gateway is Restante as a target, through its public API only: an API key to
// post, an ID token and a single-use token to connect, restante.v1 to read.
type gateway struct {
	servers atomic.Pointer[[]string] // addresses of the replicas that clients connect to
	db      *pgxpool.Pool
	header  string // of every POST, up to the Content-Length
	ids     identities
	web     *http.Client
}

// identities are the users' ID tokens.
type identities interface {
	idToken(ctx context.Context, user int) (string, error)
}

func newGateway(postTo string, connectTo []string, key string, db *pgxpool.Pool, ids identities) *gateway {
	g := &gateway{
		db: db, ids: ids,
		header: "POST /v1/messages HTTP/1.1\r\nHost: " + postTo + "\r\nAuthorization: Bearer " + key +
			"\r\nContent-Type: application/json\r\nContent-Length: ",
		web: &http.Client{Timeout: dialTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: openers, MaxConnsPerHost: openers}},
	}
	g.connectTo(connectTo)
	return g
}

// connectTo is where clients connect from now on.
func (g *gateway) connectTo(servers []string) { g.servers.Store(&servers) }

func (g *gateway) request(buf []byte, user int, payload []byte) []byte {
	const before, middle, after = `{"userId":"bench-`, `","message":`, `}`
	var digits [20]byte
	id := strconv.AppendInt(digits[:0], int64(user), 10)
	buf = append(buf, g.header...)
	buf = strconv.AppendInt(buf, int64(len(before)+len(id)+len(middle)+len(payload)+len(after)), 10)
	buf = append(buf, "\r\n\r\n"...)
	buf = append(buf, before...)
	buf = append(buf, id...)
	buf = append(buf, middle...)
	buf = append(buf, payload...)
	return append(buf, after...)
}

func (g *gateway) answer(body []byte) (int64, error) {
	_, rest, found := bytes.Cut(body, []byte(`"seq":`))
	seq, _ := leadingInt(rest)
	if !found || seq < 1 {
		return 0, fmt.Errorf("202 without a seq: %.80q", body)
	}
	return seq, nil
}

func (g *gateway) requestGroup(buf []byte, users []int, payloads [][]byte) []byte {
	const before, middle, after = `{"userId":"bench-`, `","message":`, `},`
	size := len("[]") - len(",")
	var digits [20]byte
	for i, user := range users {
		size += len(before) + len(strconv.AppendInt(digits[:0], int64(user), 10)) + len(middle) + len(payloads[i]) + len(after)
	}
	buf = append(buf, g.header...)
	buf = strconv.AppendInt(buf, int64(size), 10)
	buf = append(buf, "\r\n\r\n["...)
	for i, user := range users {
		buf = append(buf, before...)
		buf = strconv.AppendInt(buf, int64(user), 10)
		buf = append(buf, middle...)
		buf = append(buf, payloads[i]...)
		buf = append(buf, after...)
	}
	buf[len(buf)-1] = ']' // instead of the last comma
	return buf
}

func (g *gateway) answerGroup(seqs []int64, body []byte, n int) ([]int64, error) {
	for rest := body; ; {
		_, after, found := bytes.Cut(rest, []byte(`"seq":`))
		if !found {
			break
		}
		seq, after := leadingInt(after)
		seqs, rest = append(seqs, seq), after
	}
	if len(seqs) != n {
		return nil, fmt.Errorf("202 with %d seqs for %d messages: %.80q", len(seqs), n, body)
	}
	return seqs, nil
}

func (g *gateway) open(ctx context.Context, user, buffer int) (*socket, error) {
	return g.openWith(ctx, &net.Dialer{}, user, buffer)
}

func (g *gateway) openWith(ctx context.Context, dialer *net.Dialer, user, buffer int) (*socket, error) {
	servers := *g.servers.Load()
	server := servers[user%len(servers)]
	token, err := g.token(ctx, server, user)
	if err != nil {
		return nil, fmt.Errorf("token of %s: %w", userName(user), err)
	}
	return dialSocket(ctx, dialer, server, "/v1/connect?token="+url.QueryEscape(token), "restante.v1", buffer)
}

// tokenTries bounds how often a token is asked for while the gateway says that
// it is busy.
const tokenTries = 20

func (g *gateway) token(ctx context.Context, server string, user int) (string, error) {
	id, err := g.ids.idToken(ctx, user)
	if err != nil {
		return "", err
	}
	for try := 1; ; try++ {
		token, status, err := g.askToken(ctx, server, id)
		if err == nil {
			return token, nil
		}
		if try == tokenTries || status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
			return "", err
		}
		if err := pause(ctx, time.Duration(try)*50*time.Millisecond); err != nil {
			return "", err
		}
	}
}

func (g *gateway) askToken(ctx context.Context, server, id string) (token string, status int, err error) {
	request, err := http.NewRequestWithContext(ctx, "POST", "http://"+server+"/v1/tokens", http.NoBody)
	if err != nil {
		return "", 0, err
	}
	request.Header.Set("Authorization", "Bearer "+id)
	answer, err := g.web.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<16))
	if err != nil {
		return "", 0, err
	}
	if answer.StatusCode/100 != 2 {
		return "", answer.StatusCode, fmt.Errorf("answer %s: %.200s", answer.Status, body)
	}
	var issued struct{ Token string }
	if err := json.Unmarshal(body, &issued); err != nil || issued.Token == "" {
		return "", 0, errors.New("an answer without a token")
	}
	return issued.Token, 0, nil
}

// parse takes messages of ours apart by hand, since that is one of the few
// things the load generator does for each; all else goes through encoding/json.
func (g *gateway) parse(_ int, text []byte) (frame, error) {
	const start, middle = `{"kind":"message","seq":`, `"message":"`
	if rest, ok := bytes.CutPrefix(text, []byte(start)); ok {
		seq, rest := leadingInt(rest)
		if i := bytes.Index(rest, []byte(middle)); i >= 0 && bytes.IndexByte(rest[:i], '{') < 0 {
			payload := rest[i+len(middle)-1:]
			if end := bytes.IndexByte(payload[1:], '"'); end >= 0 && bytes.IndexByte(payload[1:end+1], '\\') < 0 {
				return frame{kind: frameMessage, seq: seq, id: seq, payload: payload[:end+2]}, nil
			}
		}
	}
	var f struct {
		Kind                       string
		Seq, Head, Acked, From, To int64
		Code                       int
		Reason                     string
		Message                    json.RawMessage
	}
	if err := json.Unmarshal(text, &f); err != nil {
		return frame{}, fmt.Errorf("frame %.80q: %w", text, err)
	}
	switch f.Kind {
	case "message":
		return frame{kind: frameMessage, seq: f.Seq, id: f.Seq, payload: f.Message}, nil
	case "hello":
		return frame{kind: frameHello, seq: f.Head, acked: f.Acked}, nil
	case "gap":
		return frame{kind: frameGap, seq: f.From, to: f.To, id: f.To, reason: f.Reason}, nil
	case "bye":
		return frame{kind: frameBye, reason: strings.TrimSpace(strconv.Itoa(f.Code) + " " + f.Reason)}, nil
	case "ping":
		return frame{kind: frameOther}, nil
	}
	return frame{}, fmt.Errorf("frame of unknown kind %q", f.Kind)
}

func (g *gateway) confirm(buf []byte, f frame) []byte {
	buf = append(buf, `{"kind":"ack","seq":`...)
	buf = strconv.AppendInt(buf, f.id, 10)
	return append(buf, '}')
}

func (g *gateway) streams(ctx context.Context, users int) ([]stream, error) {
	rows, err := g.db.Query(ctx, `SELECT substr(user_id, 7)::int, head, acked FROM streams WHERE user_id = ANY($1)`, userNames(users))
	if err != nil {
		return nil, fmt.Errorf("read the streams: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s stream, err error) {
		err = row.Scan(&s.user, &s.head, &s.acked)
		return s, err
	})
}

func (g *gateway) behind(ctx context.Context, users int) (behind bool, err error) {
	err = g.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM streams WHERE user_id = ANY($1) AND acked < head)`, userNames(users)).Scan(&behind)
	if err != nil {
		return false, fmt.Errorf("look whether streams are behind: %w", err)
	}
	return behind, nil
}

func userNames(users int) []string {
	names := make([]string, users)
	for i := range names {
		names[i] = userName(i)
	}
	return names
}

// leadingInt reads the digits that b begins with, at most 18 of them.
func leadingInt(b []byte) (n int64, rest []byte) {
	i := 0
	for ; i < len(b) && i < 18 && '0' <= b[i] && b[i] <= '9'; i++ {
		n = n*10 + int64(b[i]-'0')
	}
	return n, b[i:]
}
