package main

import (
	"context"
	"net/http"
	"time"

	"restante/internal/checker"
)

// batch is throughput with many messages per POST.
func batch(b *bench) error {
	return b.closedLoop(func(p *publisher) func(ctx context.Context) error {
		return p.group(b.group).post
	})
}

// postedGroup is the messages of one request, for users picked at random.
type postedGroup struct {
	*publisher
	users    []int
	texts    [][]byte // payloads, reused
	messages []checker.Message
	seqs     []int64
}

func (p *publisher) group(n int) *postedGroup {
	return &postedGroup{publisher: p, users: make([]int, n), texts: make([][]byte, n), messages: make([]checker.Message, n)}
}

// post sends the next group and waits for the answer. It fails only with the
// context.
func (g *postedGroup) post(ctx context.Context) error {
	sent := g.now()
	for i := range g.users {
		g.n++
		g.users[i] = g.random.IntN(g.load.users)
		g.texts[i] = checker.AppendPayload(g.texts[i][:0], g.id, g.n, sent, g.size)
		g.messages[i] = checker.Message{Publisher: g.id, N: g.n, Digest: g.check.Digest(g.texts[i])}
	}
	g.conn.request = g.target.requestGroup(g.conn.request[:0], g.users, g.texts)
	for i, m := range g.messages {
		g.check.Posted(userName(g.users[i]), m)
	}
	g.posted.Add(int64(len(g.users)))
	status, body, err := g.conn.post()
	if err == nil && status == http.StatusAccepted {
		if g.seqs, err = g.target.answerGroup(g.seqs[:0], body, len(g.users)); err == nil {
			for i, m := range g.messages {
				g.check.Accepted(userName(g.users[i]), m, g.seqs[i])
			}
			g.accepted.Add(int64(len(g.users)))
			if w := g.within(sent); w != nil {
				w.answers.record(time.Duration(g.now() - sent))
			}
			return ctx.Err()
		}
	}
	for i, m := range g.messages {
		g.failed(userName(g.users[i]), m, status, body, err)
	}
	return pause(ctx, 20*time.Millisecond)
}
