package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"

	"restante/cmd/bench/floor"
	"restante/internal/checker"
	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

// startTestFloor serves the floor in this process.
func startTestFloor(t *testing.T) (url, database string) {
	t.Helper()
	db := testdb.New(t)
	server, err := floor.New(t.Context(), db.Pool, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("floor: %v", err)
		}
	})
	return "http://" + listener.Addr().String(), db.URL
}

// runBench runs a mode with -json and returns the figures.
func runBench(t *testing.T, wantCode int, args ...string) (f figures, output string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "figures.json")
	var out bytes.Buffer
	code := run(t.Context(), append(args, "-json", file), &out, &out)
	if code != wantCode {
		t.Fatalf("bench %v: exit code %d, want %d\n%s", args, code, wantCode, out.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	return f, out.String()
}

// TestModes runs every mode against the floor. Timing is not judged, the counts
// and the verdict are.
func TestModes(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name  string
		args  []string
		check func(t *testing.T, f figures)
	}{
		{"throughput", []string{"throughput", "-users", "5", "-publishers", "4", "-duration", "1s", "-warmup", "0s"}, func(t *testing.T, f figures) {
			if f.Messages == 0 || f.Rate == 0 || f.Delivery == nil || f.Answer == nil {
				t.Errorf("no figures: %+v", f)
			}
		}},
		{"latency", []string{"latency", "-rate", "40", "-users", "5", "-publishers", "8", "-duration", "1s", "-warmup", "0s"}, func(t *testing.T, f figures) {
			if f.Verdict.Accepted > 400 {
				t.Errorf("%d messages in about a second at a rate of 40", f.Verdict.Accepted)
			}
			if f.Delivery == nil || f.Delivery.P99 < f.Delivery.P50 || f.Delivery.Max < f.Delivery.P99 || f.Lateness == nil || f.WALBytes == 0 {
				t.Errorf("latencies: %v, of them %v", f.Delivery, f.Lateness)
			}
		}},
		{"drain", []string{"drain", "-users", "7", "-backlog", "30", "-publishers", "4"}, func(t *testing.T, f figures) {
			if f.Messages != 210 || f.Verdict.Accepted != 210 || f.Drain == nil || f.Drain.Stored != 210 {
				t.Errorf("want 7 × 30 messages stored and received: %+v", f)
			}
		}},
		{"batch", []string{"batch", "-users", "5", "-publishers", "4", "-group", "7", "-duration", "1s", "-warmup", "0s"}, func(t *testing.T, f figures) {
			if f.Verdict.Accepted%7 != 0 || f.Rate == 0 {
				t.Errorf("want groups of 7: %+v", f)
			}
		}},
		{"part of the users connected", []string{"throughput", "-users", "1", "-connected", "1", "-publishers", "2", "-duration", "1s", "-warmup", "0s"}, func(t *testing.T, f figures) {
			if f.Messages == 0 {
				t.Errorf("no figures: %+v", f)
			}
		}},
		{"idle", []string{"idle", "-connections", "40", "-settle", "0s", "-duration", "1s"}, func(t *testing.T, f figures) {
			if i := f.Idle; i == nil || i.Connections != 40 || f.Verdict.Received != 40 {
				t.Errorf("want 40 connections that get a message each: %+v", f)
			}
		}},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			url, database := startTestFloor(t)
			f, output := runBench(t, 0, append(tc.args, "-target", "floor", "-url", url, "-database-url", database)...)
			v := f.Verdict
			if !v.Clean() || v.Accepted == 0 || v.Received != v.Accepted || v.Duplicates != 0 || f.Refused+f.Unanswered+f.Reconnects != 0 {
				t.Errorf("want all accepted received once, and no trouble:\n%s", output)
			}
			if !strings.Contains(output, "in order, nothing lost") {
				t.Errorf("the table has no verdict:\n%s", output)
			}
			tc.check(t, f)
		})
	}
}

// TestOwnServers runs the modes that fill, kill or trim, against gateways and a
// PostgreSQL of their own.
func TestOwnServers(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the gateway and starts databases")
	}
	t.Parallel()
	server := filepath.Join(t.TempDir(), "server")
	if err := goBuild(t.Context(), server, "restante/cmd/server"); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		args  string
		check func(t *testing.T, f figures)
	}{
		{"storm -replicas 2 -users 30 -backlog 5 -publishers 4", func(t *testing.T, f figures) {
			if s := f.Storm; s == nil || s.Pending != 150 || f.Reconnects < 30 || s.Clients != 30 || s.SettledSeconds < s.ConnectedSeconds {
				t.Errorf("want 150 messages to survive a replica: %+v %+v", s, f)
			}
		}},
		{"offline -users 5 -publishers 4 -streams 3000 -jobs 1000 -duration 1s -warmup 0s -settle 0s", func(t *testing.T, f figures) {
			if o := f.Offline; o == nil || o.Before.Rate == 0 || o.WithJobs.Rate == 0 || o.FetchJobs == 0 {
				t.Errorf("no figures: %+v", o)
			}
		}},
		{"soak -users 5 -publishers 4 -rate 100 -duration 2s -every 1s -warmup 0s", func(t *testing.T, f figures) {
			// Two, if the machine is not too busy to look every second.
			if n := len(f.Soak); n == 0 || n > 2 || len(f.Soak[0].Tables) != 3 || f.Soak[n-1].WALBytes == 0 {
				t.Errorf("want two samples with three tables each: %+v", f.Soak)
			}
		}},
		{"neighbours -users 6 -publishers 4 -rate 50 -duration 1s -warmup 0s -strangers 2000 -expired 3000 -silent 3 -bodies 3", func(t *testing.T, f figures) {
			if len(f.Neighbours) != len(troubles()) {
				t.Fatalf("want a row for each trouble: %+v", f.Neighbours)
			}
			for _, n := range f.Neighbours {
				for _, a := range []around{n.Before, n.During, n.After} {
					if a.Answer.Count < 20 || a.Delivery.Count < 20 || a.Failed != 0 {
						t.Errorf("%s: want the others' fifty messages in each window, none failed: %+v", n.Trouble, n)
					}
				}
			}
		}},
	}
	for _, tc := range cases {
		t.Run(strings.Fields(tc.args)[0], func(t *testing.T) {
			f, output := runBench(t, 0, append(strings.Fields(tc.args), "-server", server)...)
			if v := f.Verdict; !v.Clean() || v.Accepted == 0 || v.Received < v.Accepted {
				t.Errorf("want all accepted received, and no trouble:\n%s", output)
			}
			tc.check(t, f)
		})
	}
}

// TestViolation runs against a server that swaps the first two messages of
// every user, once.
func TestViolation(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	if _, err := floor.New(t.Context(), db.Pool, slog.New(slog.DiscardHandler)); err != nil { // its table, for the end
		t.Fatal(err)
	}
	s := &swapper{users: map[string]*swapped{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: s}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })

	f, output := runBench(t, 1, "throughput", "-users", "3", "-publishers", "1", "-duration", "1s", "-warmup", "0s",
		"-target", "floor", "-url", "http://"+listener.Addr().String(), "-database-url", db.URL)
	if f.Verdict.Kinds[checker.KindOrder] != 3 || f.Verdict.Count != 3 {
		t.Errorf("want one order violation for each of 3 users:\n%s", output)
	}
}

// swapper answers like the floor, from memory and in the wrong order.
type swapper struct {
	mu    sync.Mutex
	next  int64
	users map[string]*swapped
}

type swapped struct {
	held [][]byte // the first message until there is a second
	n    int
	out  chan []byte
}

func (s *swapper) user(name string) *swapped {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users[name] == nil {
		s.users[name] = &swapped{out: make(chan []byte, 1<<20)}
	}
	return s.users[name]
}

func (s *swapper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u := s.user(r.URL.Query().Get("user"))
	if r.Method == "POST" {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		u.held, u.n = append([][]byte{body}, u.held...), u.n+1
		if u.n > 1 {
			for _, m := range u.held {
				s.next++
				u.out <- []byte(`{"seq":` + strconv.FormatInt(s.next, 10) + `,"data":` + string(m) + `}`)
			}
			u.held = nil
		}
		s.mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
		return
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	ctx, gone := context.WithCancel(context.Background())
	go func() { // acknowledgements, until the client goes
		defer gone()
		for {
			if _, _, err := conn.Read(ctx); err != nil {
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-u.out:
			if conn.Write(ctx, websocket.MessageText, m) != nil {
				return
			}
		}
	}
}
