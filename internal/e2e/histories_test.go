package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"restante/internal/checker"
)

// histories is one change of the log's history under load: publishers that post all
// the time, clients that come back whenever they are told to, and a checker for each
// of the two histories.
type histories struct {
	*world
	servers  []*server
	users    []string
	old, new *checker.Checker
	phase    atomic.Int32
	began    chan struct{} // closed when the new history's checker knows where it begins

	mu        sync.Mutex
	epochs    []string           // that clients were told, in order of appearance
	announced map[string][]frame // gaps with reason "epoch", by user
	contents  map[string]string  // epoch, user and seq: the message
	arrived   map[string]bool    // users whose client met the new history
	accepted  map[string]bool    // messages answered 202 in the old history
	after     int                // messages answered 202 in the new one
}

// Phases of a change.
const (
	before  = iota // all is strict, in the old history
	between        // a message may be in either, or in none
	after          // all is strict, in the new history
)

func newHistories(w *world, servers []*server, users int) *histories {
	h := &histories{
		world: w, servers: servers, old: w.check, new: checker.New(), began: make(chan struct{}),
		arrived: map[string]bool{}, announced: map[string][]frame{}, contents: map[string]string{}, accepted: map[string]bool{},
	}
	for i := range users {
		h.users = append(h.users, fmt.Sprint("user-", i))
	}
	return h
}

// begins tells the new history's checker what the log holds at the change.
func (h *histories) begins(user string, head, acked int64) { h.new.Began(user, head, acked) }

// run starts publishers and clients; stop ends the publishers, and what it returns
// the clients.
func (h *histories) run(plain bool) (stopPosting func() (stopReading func())) {
	ctx, stopReading := context.WithCancel(h.t.Context())
	posting, stopPosting1 := context.WithCancel(ctx)
	var readers, posters sync.WaitGroup
	for i, user := range h.users {
		readers.Go(func() { h.read(ctx, user, i, plain && i%2 == 1) })
	}
	for n := range 6 {
		posters.Go(func() { h.post(posting, uint32(n+1)) })
	}
	stop := func() { stopReading(); readers.Wait() }
	h.t.Cleanup(stop)
	return func() func() { stopPosting1(); posters.Wait(); return stop }
}

// post posts for random users through random replicas.
func (h *histories) post(ctx context.Context, publisher uint32) {
	for n := uint64(1); ctx.Err() == nil; n++ {
		s, user := h.servers[rand.IntN(len(h.servers))], h.users[rand.IntN(len(h.users))]
		payload := checker.AppendPayload(nil, publisher, n, 0, 100)
		started := h.phase.Load()
		in := func(c *checker.Checker) checker.Message { m, _, _ := c.Parse(payload); return m }
		switch started {
		case before:
			h.old.Posted(user, in(h.old))
		case after:
			h.new.Posted(user, in(h.new))
		}
		a, err := h.send(context.WithoutCancel(ctx), "POST", s.url+"/v1/messages", "Bearer "+h.key, fmt.Sprintf(`{"userId":%q,"message":%s}`, user, payload))
		ended := h.phase.Load()
		if started != ended || started == between {
			if started == between {
				h.old.Posted(user, in(h.old))
			}
			h.old.Unknown(user, in(h.old))
			<-h.began
			h.new.Posted(user, in(h.new))
			h.new.Unknown(user, in(h.new))
			continue
		}
		c := h.old
		if started == after {
			c = h.new
		}
		switch {
		case err != nil, bytes.Contains(a.body, []byte("outcome-unknown")):
			c.Unknown(user, in(c))
		case a.status != http.StatusAccepted:
			c.Refused(user, in(c))
			if a.header.Get("Retry-After") == "" {
				h.t.Errorf("answer %d without Retry-After: %s", a.status, a.body)
			}
		default:
			c.Accepted(user, in(c), seqOf(h.t, a.body))
			h.mu.Lock()
			if started == before {
				h.accepted[string(payload)] = true
			} else {
				h.after++
			}
			h.mu.Unlock()
		}
		select {
		case <-time.After(rand.N(8 * time.Millisecond)):
		case <-ctx.Done():
		}
	}
}

// read keeps one client of a user connected, to one replica after the other.
func (h *histories) read(ctx context.Context, user string, i int, plain bool) {
	epoch := ""
	for ; ctx.Err() == nil; i++ {
		pause := h.session(ctx, h.servers[i%len(h.servers)], user, &epoch, plain)
		select {
		case <-time.After(pause + rand.N(100*time.Millisecond)):
		case <-ctx.Done():
		}
	}
}

// session is one connection, and returns when to come back.
func (h *histories) session(ctx context.Context, s *server, user string, epoch *string, plain bool) time.Duration {
	token, err := s.token(h.idToken(user))
	if err != nil {
		return 0
	}
	path, protocols := "/v1/connect", []string{"restante.v1"}
	if plain {
		path, protocols = "/ws", nil
	} else if *epoch != "" {
		path += "?epoch=" + url.QueryEscape(*epoch)
	}
	started := h.phase.Load()
	conn, err := websocketTo(ctx, s, path, token, protocols...)
	if err != nil || h.phase.Load() != started {
		if err == nil {
			_ = conn.CloseNow()
		}
		return 0
	}
	defer func() { _ = conn.CloseNow() }()
	c := &historyClient{h: h, user: user, conn: conn, epoch: epoch}
	if plain {
		c.checker, c.judge = h.judge(user, started != before)
	}
	defer func() {
		if c.judge != nil {
			c.judge.Closed()
		}
	}()
	for {
		_, text, err := conn.Read(ctx)
		if err != nil {
			return c.pause
		}
		if plain {
			m, _, _ := c.checker.Parse(text)
			c.judge.ReceivedPlain(m)
		} else if err := c.handle(ctx, text); err != nil {
			return c.pause
		}
	}
}

// judge tells the checker of one history of a connection.
func (h *histories) judge(user string, isNew bool) (*checker.Checker, *checker.Conn) {
	c := h.old
	if isNew {
		<-h.began
		c = h.new
		h.mu.Lock()
		h.arrived[user] = true
		h.mu.Unlock()
	}
	return c, c.Connect(user, checker.FromAcked)
}

// historyClient is one connection of restante.v1.
type historyClient struct {
	h       *histories
	user    string
	conn    *websocket.Conn
	checker *checker.Checker
	judge   *checker.Conn
	epoch   *string // that the client knows, from one connection to the next
	gapDue  bool
	pause   time.Duration
}

func (c *historyClient) handle(ctx context.Context, text []byte) error {
	var f frame
	if err := json.Unmarshal(text, &f); err != nil {
		return err
	}
	h := c.h
	if c.gapDue && (f.Kind != "gap" || f.Reason != "epoch") {
		h.t.Errorf("%s brought another epoch, and is sent %s at first", c.user, text)
	}
	switch f.Kind {
	case "hello":
		c.gapDue = *c.epoch != "" && *c.epoch != f.Epoch
		*c.epoch = f.Epoch
		c.checker, c.judge = h.judge(c.user, h.meets(f.Epoch))
		c.judge.Hello(f.Head, f.Acked)
	case "message":
		h.holds(h.t, *c.epoch, c.user, f)
		m, _, _ := c.checker.Parse(f.Message)
		c.judge.Received(f.Seq, m)
		return c.confirm(ctx, f.Seq)
	case "gap":
		if f.Reason == "epoch" {
			if !c.gapDue || f.From != 1 {
				h.t.Errorf("%s is sent %s", c.user, text)
			}
			c.gapDue = false
			h.mu.Lock()
			h.announced[c.user] = append(h.announced[c.user], f)
			h.mu.Unlock()
			return nil
		}
		c.judge.Gap(f.From, f.To)
		return c.confirm(ctx, f.To)
	case "bye":
		c.pause = time.Duration(f.ReconnectAfterMs) * time.Millisecond
		if f.Code != int(websocket.StatusServiceRestart) {
			h.t.Errorf("%s is sent %s", c.user, text)
		}
	}
	return nil
}

func (c *historyClient) confirm(ctx context.Context, seq int64) error {
	c.judge.Confirmed(seq)
	return c.conn.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"kind":"ack","seq":%d}`, seq))
}

// meets notes an epoch and reports whether it is the new one.
func (h *histories) meets(epoch string) (isNew bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, e := range h.epochs {
		if e == epoch {
			return i > 0
		}
	}
	h.epochs = append(h.epochs, epoch)
	return len(h.epochs) > 1
}

// holds notes what a seq holds, which one epoch never changes.
func (h *histories) holds(t testing.TB, epoch, user string, f frame) {
	h.mu.Lock()
	defer h.mu.Unlock()
	key := fmt.Sprint(epoch, " ", user, " ", f.Seq)
	if known, ok := h.contents[key]; ok && known != string(f.Message) {
		t.Errorf("%s is %s and %s", key, known, f.Message)
	}
	h.contents[key] = string(f.Message)
}

// verdict judges the new history by what its log holds, and returns how many messages
// of the old one, answered 202, it does not have.
func (h *histories) verdict(databaseURL string) (lost int) {
	h.t.Helper()
	h.databaseURL = databaseURL
	eventually(h.t, "all clients are back", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.arrived) == len(h.users)
	})
	eventually(h.t, "everything has arrived", func() bool { return h.new.Waiting() == 0 })
	pool := h.pool()
	kept := map[string]bool{}
	rows, err := pool.Query(h.t.Context(), `SELECT convert_from(payload, 'UTF8') FROM events`)
	if err != nil {
		h.t.Fatal(err)
	}
	for rows.Next() {
		var payload string
		if err := rows.Scan(&payload); err != nil {
			h.t.Fatal(err)
		}
		kept[payload] = true
	}
	for _, user := range h.users {
		var head, acked int64
		if err := pool.QueryRow(h.t.Context(), "SELECT head, acked FROM streams WHERE user_id = $1", user).Scan(&head, &acked); err != nil {
			h.t.Fatalf("stream of %s: %v", user, err)
		}
		h.new.Stream(user, head, acked)
	}
	for name, c := range map[string]*checker.Checker{"old": h.old, "new": h.new} {
		report := c.Report()
		if !report.Clean() {
			h.t.Errorf("the %s history: %v", name, report)
		} else {
			h.t.Logf("the %s history: %v", name, report)
		}
	}
	for payload := range h.accepted {
		if !kept[payload] {
			lost++
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.epochs) != 2 {
		h.t.Errorf("clients were told the epochs %v, want two", h.epochs)
	}
	if h.after < 100 {
		h.t.Errorf("only %d messages were accepted after the change", h.after)
	}
	h.t.Logf("%d messages accepted before, %d of them lost; %d accepted after", len(h.accepted), lost, h.after)
	return lost
}

// isTold checks that each client of restante.v1 was told once that the epoch changed,
// and each replica noticed once.
func (h *histories) isTold(v1 func(i int) bool) {
	h.t.Helper()
	for i, user := range h.users {
		if gaps := h.announced[user]; v1(i) && len(gaps) != 1 {
			h.t.Errorf("%s was told of the epoch %d times: %v", user, len(gaps), gaps)
		}
	}
	for i, s := range h.servers {
		if n := s.metric("restante_epoch_changes_total", ""); n != 1 {
			h.t.Errorf("replica %d counts %v changes of the epoch", i, n)
		}
	}
}
