package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// floorTarget is the floor as a target. It numbers messages over all users and
// does not tell the number in its answer, so a user's seqs are counted here: the
// n-th id that a user is ever sent is seq n. The checker then judges order,
// repeats and loss as for the gateway; only a hole shows at the end instead of
// at once.
type floorTarget struct {
	server string
	table  string // quoted
	db     *pgxpool.Pool
	users  []numbering
}

// numbering is the ids one user was sent, rising.
type numbering struct {
	mu  sync.Mutex // guards ids
	ids []int64
}

func newFloorTarget(server, table string, users int, db *pgxpool.Pool) *floorTarget {
	return &floorTarget{server, pgx.Identifier{table}.Sanitize(), db, make([]numbering, users)}
}

func (f *floorTarget) request(buf []byte, user int, payload []byte) []byte {
	buf = append(buf, "POST /publish?user="...)
	buf = strconv.AppendInt(buf, int64(user), 10)
	buf = append(buf, " HTTP/1.1\r\nHost: "...)
	buf = append(buf, f.server...)
	buf = append(buf, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	buf = strconv.AppendInt(buf, int64(len(payload)), 10)
	buf = append(buf, "\r\n\r\n"...)
	return append(buf, payload...)
}

func (f *floorTarget) answer([]byte) (int64, error) { return 0, nil }

func (f *floorTarget) requestGroup(buf []byte, users []int, payloads [][]byte) []byte {
	var digits [20]byte
	size := 0
	for i, user := range users {
		size += len(strconv.AppendInt(digits[:0], int64(user), 10)) + len(" ") + len(payloads[i]) + len("\n")
	}
	buf = append(buf, "POST /publish-group HTTP/1.1\r\nHost: "...)
	buf = append(buf, f.server...)
	buf = append(buf, "\r\nContent-Type: text/plain\r\nContent-Length: "...)
	buf = strconv.AppendInt(buf, int64(size), 10)
	buf = append(buf, "\r\n\r\n"...)
	for i, user := range users {
		buf = strconv.AppendInt(buf, int64(user), 10)
		buf = append(buf, ' ')
		buf = append(buf, payloads[i]...)
		buf = append(buf, '\n')
	}
	return buf
}

func (f *floorTarget) answerGroup(seqs []int64, _ []byte, n int) ([]int64, error) {
	return append(seqs, make([]int64, n)...), nil
}

func (f *floorTarget) open(ctx context.Context, user, buffer int) (*socket, error) {
	return dialSocket(ctx, &net.Dialer{}, f.server, "/ws?user="+strconv.Itoa(user), "", buffer)
}

func (f *floorTarget) parse(user int, text []byte) (frame, error) {
	rest, ok := bytes.CutPrefix(text, []byte(`{"seq":`))
	id, rest := leadingInt(rest)
	payload, ok2 := bytes.CutPrefix(rest, []byte(`,"data":`))
	if !ok || !ok2 || len(payload) < 2 {
		return frame{}, fmt.Errorf("not a frame of the floor: %.80q", text)
	}
	return frame{kind: frameMessage, seq: f.users[user].seq(id), id: id, payload: payload[:len(payload)-1]}, nil
}

// seq returns the place of an id among those the user was sent. An id that is
// neither new nor known, which would be a message overtaken by a later one, is 0.
func (n *numbering) seq(id int64) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.ids) == 0 || id > n.ids[len(n.ids)-1] {
		n.ids = append(n.ids, id)
		return int64(len(n.ids))
	}
	i, found := slices.BinarySearch(n.ids, id)
	if !found {
		return 0
	}
	return int64(i) + 1
}

func (f *floorTarget) confirm(buf []byte, fr frame) []byte { return strconv.AppendInt(buf, fr.id, 10) }

// streams counts what was sent and what is still stored. What was deleted has
// been confirmed.
func (f *floorTarget) streams(ctx context.Context, users int) ([]stream, error) {
	all := make([]stream, users)
	for i := range all {
		n := &f.users[i]
		n.mu.Lock()
		all[i] = stream{user: i, head: int64(len(n.ids)), acked: int64(len(n.ids))}
		n.mu.Unlock()
	}
	rows, err := f.db.Query(ctx, `SELECT user_id, id FROM `+f.table+` WHERE user_id < $1 ORDER BY user_id, id`, users)
	if err != nil {
		return nil, fmt.Errorf("read the floor's table: %w", err)
	}
	var user int
	var id int64
	_, err = pgx.ForEachRow(rows, []any{&user, &id}, func() error {
		n := &f.users[user]
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.ids) == 0 || id > n.ids[len(n.ids)-1] {
			all[user].head++ // stored, not yet sent
			return nil
		}
		all[user].acked--
		return nil
	})
	return all, err
}

// behind looks at one row: reading all that is left would slow down what deletes it.
func (f *floorTarget) behind(ctx context.Context, users int) (behind bool, err error) {
	err = f.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM `+f.table+` WHERE user_id < $1 ORDER BY user_id LIMIT 1)`, users).Scan(&behind)
	if err != nil {
		return false, fmt.Errorf("look into the floor's table: %w", err)
	}
	return behind, nil
}
