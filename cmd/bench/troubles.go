package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/publishers"
)

// trouble is something that one user, publisher, client or neighbour in the
// database does, and that the others should not notice.
type trouble struct {
	name    string
	summary string
	prepare func(*bench) error // before anything is measured; nil for nothing
	// run causes the trouble until ctx ends, and says what became of it.
	run func(ctx context.Context, b *bench) (note string, err error)
}

func troubles() []trouble {
	return []trouble{
		{name: "lock", run: lockedStream,
			summary: "another transaction keeps the row of a user locked who is posted to and connected"},
		{name: "frozen", run: frozenReplica,
			summary: "a replica is stopped (SIGSTOP) while a transaction of it holds two users"},
		{name: "arrays", run: largeArrays,
			summary: "another publisher posts 16 arrays of 8 MB at the same time"},
		{name: "strangers", run: strangers,
			summary: "another publisher posts to users who never existed, as fast as it can"},
		{name: "expired", prepare: fillExpired, run: expiredBacklog,
			summary: "a user with millions of expired messages connects"},
		{name: "silent", prepare: fillSilent, run: silentSockets,
			summary: "clients with a full window pending connect and do not read"},
		{name: "bodies", run: halfBodies,
			summary: "requests announce 256 KiB and send one byte of it"},
	}
}

// lockedStream holds the last user's row while messages and acks for the user go on.
func lockedStream(ctx context.Context, b *bench) (string, error) {
	conn, err := pgx.Connect(ctx, b.env.database)
	if err != nil {
		return "", err
	}
	defer conn.Close(b.ctx)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return "", err
	}
	defer tx.Rollback(b.ctx)
	victim := b.users - 1
	if _, err := tx.Exec(ctx, `SELECT FROM streams WHERE user_id = $1 FOR UPDATE`, userName(victim)); err != nil {
		return "", err
	}
	posting := b.postTo(victim)
	<-ctx.Done()
	posting.stop()
	return "", nil
}

// postTo posts to one user, a message every 100 ms from each of eight publishers.
func (b *bench) postTo(user int) *crowd {
	return b.publish(8, func(ctx context.Context, p *publisher) {
		for p.post(ctx, user, p.now()) == nil && pause(ctx, 100*time.Millisecond) == nil {
		}
	})
}

// frozenReplica stops the last replica in the middle of a transaction.
func frozenReplica(ctx context.Context, b *bench) (string, error) {
	if len(b.env.gateways) < 2 {
		return "left out: it needs -replicas 2", nil
	}
	last := len(b.env.gateways) - 1
	replica, address := b.env.gateways[last].cmd.Process, b.env.servers[last]
	posting, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	var keys atomic.Int64
	for range 8 {
		group.Go(func() {
			for posting.Err() == nil {
				// With a key, an append holds its users for two round trips.
				body := fmt.Sprintf(`[{"userId":%q,"message":1,"idempotencyKey":"k%d"},{"userId":%q,"message":1}]`,
					"frozen-0", keys.Add(1), "frozen-1")
				_ = b.send(posting, address, b.env.key, []byte(body)) // the trouble, not what is measured
			}
		})
	}
	for range 500 {
		if err := freeze(replica); err != nil {
			return "", err
		}
		var held int
		err := b.env.db.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'idle in transaction' AND query LIKE '%k.idempotency_key%'`).Scan(&held)
		if err != nil || held > 0 {
			defer func() { _ = thaw(replica) }()
			if err != nil {
				return "", err
			}
			healthy := b.publish(4, func(ctx context.Context, p *publisher) {
				for pause(ctx, 100*time.Millisecond) == nil {
					_ = b.send(ctx, b.env.servers[0], b.env.key, []byte(`[{"userId":"frozen-0","message":2},{"userId":"frozen-1","message":2}]`))
				}
			})
			defer healthy.stop()
			<-ctx.Done()
			return "", nil
		}
		if err := thaw(replica); err != nil {
			return "", err
		}
		if pause(ctx, 3*time.Millisecond) != nil {
			break
		}
	}
	return "not caught in a transaction", nil
}

// send posts a body to a replica, whatever it answers.
func (b *bench) send(ctx context.Context, address, key string, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, "POST", "http://"+address+"/v1/messages", bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Content-Type", "application/json")
	answer, err := b.gateway.web.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	if err == nil && answer.StatusCode != http.StatusAccepted {
		err = errors.New(answer.Status)
	}
	return err
}

// greedyKey is the API key of another publisher.
func (b *bench) greedyKey(ctx context.Context) (string, error) {
	_, key, err := publishers.New(b.env.db, prometheus.NewRegistry()).Create(ctx, "greedy", []string{"publish"}, "greedy-")
	return key, err
}

// flood posts the bodies of another publisher, n at a time, until ctx ends or body
// returns nil. It returns how many were accepted and how many not.
func (b *bench) flood(ctx context.Context, n int, body func(i int64) []byte) (accepted, failed int64, err error) {
	key, err := b.greedyKey(ctx)
	if err != nil {
		return 0, 0, err
	}
	var next, took, refused atomic.Int64
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			for ctx.Err() == nil {
				text := body(next.Add(1))
				if text == nil {
					return
				}
				if b.send(ctx, b.env.servers[0], key, text) == nil {
					took.Add(1)
				} else if ctx.Err() == nil {
					refused.Add(1)
				}
			}
		})
	}
	group.Wait()
	return took.Load(), refused.Load(), nil
}

// array is the body of 1000 messages of size bytes for users with this prefix.
func array(prefix string, first int64, users, size int) []byte {
	text := []byte{'['}
	filler := bytes.Repeat([]byte{'.'}, size)
	for i := range int64(1000) {
		text = append(text, `{"userId":"greedy-`+prefix...)
		text = strconv.AppendInt(text, (first+i)%int64(users), 10)
		text = append(append(append(text, `","message":"`...), filler...), `"},`...)
	}
	text[len(text)-1] = ']'
	return text
}

func largeArrays(ctx context.Context, b *bench) (string, error) {
	text := array("array-", 0, 50, 8300)
	accepted, failed, err := b.flood(ctx, 16, func(int64) []byte { return text })
	return fmt.Sprintf("%d arrays of %.1f MB accepted, %d not", accepted, float64(len(text))/1e6, failed), err
}

func strangers(ctx context.Context, b *bench) (string, error) {
	accepted, failed, err := b.flood(ctx, 4, func(i int64) []byte {
		if i > int64(b.strangers)/1000 {
			return nil
		}
		return array("stranger-", 1000*i, 1<<40, 100)
	})
	if err != nil {
		return "", err
	}
	<-ctx.Done()
	var jobs int64
	err = b.env.db.QueryRow(b.ctx, `SELECT count(*) FROM river_job WHERE kind = 'deliver' AND finalized_at IS NULL AND args->>'user_id' LIKE 'greedy-%'`).Scan(&jobs)
	return fmt.Sprintf("%d users posted to, %d requests refused; %d delivery jobs for them", 1000*accepted, failed, jobs), err
}

// fillExpired gives the user behind the last one a backlog that has expired.
func fillExpired(b *bench) error {
	return fill(b.ctx, b.env.db,
		statement{`INSERT INTO streams (user_id, head, armed, lane) VALUES ($1, $2, 1, 2)`, []any{userName(b.users), b.expired}},
		statement{`INSERT INTO events (user_id, seq, payload, publisher, created_at, expires_at)
			SELECT $1, s, '"."', 'bench', now() - interval '1 minute', now() - interval '1 second' FROM generate_series(1, $2::bigint) AS s`, []any{userName(b.users), b.expired}})
}

// expiredBacklog connects that user, and posts a message.
func expiredBacklog(ctx context.Context, b *bench) (string, error) {
	user := b.users
	socket, err := b.gateway.open(ctx, user, clientBuffer)
	if err != nil {
		return "", err
	}
	defer socket.conn.Close()
	stop := context.AfterFunc(ctx, func() { socket.conn.SetReadDeadline(time.Now()) })
	defer stop()
	posted := time.Now()
	if err := b.send(ctx, b.env.servers[0], b.env.key, []byte(`{"userId":"`+userName(user)+`","message":"live"}`)); err != nil {
		return "", err
	}
	note := "its live message did not arrive"
	for {
		text, err := socket.next()
		if err != nil {
			break
		}
		if f, err := b.gateway.parse(user, text); err == nil && f.kind == frameMessage {
			note = fmt.Sprintf("its live message arrived after %.2f s", time.Since(posted).Seconds())
			break
		}
	}
	<-ctx.Done()
	var left int64
	err = b.env.db.QueryRow(b.ctx, `SELECT count(*) FROM events WHERE user_id = $1`, userName(user)).Scan(&left)
	return fmt.Sprintf("%s; %d of %d expired messages are still to be deleted", note, max(0, left-1), b.expired), err
}

// silentMessages of silentBytes fill the window of a session.
const (
	silentMessages = 64
	silentBytes    = 16 << 10
)

// fillSilent gives the users behind that one a full window each.
func fillSilent(b *bench) error {
	return fill(b.ctx, b.env.db,
		statement{`INSERT INTO streams (user_id, head, armed, lane) SELECT 'bench-' || i, $3, 1, 2 FROM generate_series($1::int, $2::int) AS i`,
			[]any{b.users + 1, b.users + b.silent, silentMessages}},
		statement{`INSERT INTO events (user_id, seq, payload, publisher, expires_at)
			SELECT 'bench-' || i, s, convert_to('"' || repeat('.', $4::int - 2) || '"', 'UTF8'), 'bench', now() + interval '1 day'
			FROM generate_series($1::int, $2::int) AS i, generate_series(1, $3::int) AS s`,
			[]any{b.users + 1, b.users + b.silent, silentMessages, silentBytes}})
}

func silentSockets(ctx context.Context, b *bench) (string, error) {
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	// Loopback would take the whole window into its buffers.
	dialer := &net.Dialer{Control: narrow}
	for i := range b.silent {
		socket, err := b.gateway.openWith(ctx, dialer, b.users+1+i, 256)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return "", err
		}
		open = append(open, socket.conn)
	}
	<-ctx.Done()
	return fmt.Sprintf("%d sockets that do not read", len(open)), nil
}

func halfBodies(ctx context.Context, b *bench) (string, error) {
	key, err := b.greedyKey(ctx)
	if err != nil {
		return "", err
	}
	target := url.URL{Scheme: "http", Host: b.env.servers[0], Path: "/v1/messages"}
	head := "POST " + target.Path + " HTTP/1.1\r\nHost: " + target.Host + "\r\nAuthorization: Bearer " + key +
		"\r\nContent-Type: application/json\r\nContent-Length: 262144\r\n\r\n["
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	refused := 0
	for range b.bodies {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", target.Host)
		if ctx.Err() != nil {
			break
		}
		if err == nil {
			open = append(open, conn)
			_, err = io.WriteString(conn, head)
		}
		if err != nil {
			refused++
		}
	}
	<-ctx.Done()
	return fmt.Sprintf("%d requests that do not end, %d refused at once", len(open), refused), nil
}
