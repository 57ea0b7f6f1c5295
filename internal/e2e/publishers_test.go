package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"restante/internal/testdb"
)

// TestAPublishersFloodIsItsOwn: whatever one key posts, another key's posts are
// answered nearly as fast as before. (Before publishers shared the commits, they took
// 200 to 1000 times as long.)
func TestAPublishersFloodIsItsOwn(t *testing.T) {
	for name, body := range map[string]string{
		"arrays of 8 MB":                items(1000, 8<<10-100),
		"arrays of 1000 short messages": items(1000, 100),
		"messages for 1000 users":       `{"users":[` + names(1000) + `],"message":"` + strings.Repeat("x", 1000) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, testdb.New(t).URL)
			s := w.server()
			flood := strings.TrimSpace(do(t, []string{"DATABASE_URL=" + w.databaseURL}, "msg", "keys", "create", "-name", "flood"))
			w.secret(flood)
			before := w.postTimes(s, 3*time.Second)
			stop := w.flood(s, flood, 16, body)
			during := w.postTimes(s, 6*time.Second)
			answers := stop()
			t.Logf("p50 %v, then %v; p90 %v, then %v; p99 %v, then %v; the flood's answers: %v", quantile(before, .5), quantile(during, .5),
				quantile(before, .9), quantile(during, .9), quantile(before, .99), quantile(during, .99), answers)
			// The rest is the machine's noise: the two processes and Postgres share it.
			if quantile(during, .5) > 3*quantile(before, .5)+2*time.Millisecond || quantile(during, .99) > 3*quantile(before, .99)+100*time.Millisecond {
				t.Error("the neighbour waits for the flood")
			}
			if answers[http.StatusAccepted] == 0 {
				t.Error("nothing of the flood was accepted")
			}
		})
	}
}

func names(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"flood-%d",`, i)
	}
	return strings.TrimSuffix(b.String(), ",")
}

// items is an array of n messages of so many bytes.
func items(n, size int) string {
	var b strings.Builder
	b.WriteString("[")
	text := strings.Repeat("x", size)
	for i := range n {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, `{"userId":"flood-%d","message":%q}`, i%100, text)
	}
	b.WriteString("]")
	return b.String()
}

// postTimes posts small messages for a while and returns how long they took.
func (w *world) postTimes(s *server, duration time.Duration) []time.Duration {
	w.t.Helper()
	var all []time.Duration
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); time.Since(begin) < duration; <-tick.C {
		start := time.Now()
		a, err := w.send(w.t.Context(), "POST", s.url+"/v1/messages", "Bearer "+w.key, `{"userId":"neighbour","message":"hello"}`)
		if err != nil || a.status != http.StatusAccepted {
			w.t.Fatalf("the neighbour's post: %d %s, %v", a.status, a.body, err)
		}
		all = append(all, time.Since(start))
	}
	slices.Sort(all)
	return all
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(10 * time.Microsecond)
}

// flood posts a body from so many connections, one after the other on each, from a
// process of its own, so that it does not delay whoever measures. It returns how many
// answers of each status there were.
func (w *world) flood(s *server, key string, clients int, body string) (stop func() map[int]int) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "body")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		w.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	child := exec.CommandContext(w.t.Context(), self)
	child.Env = append(os.Environ(), floodEnv+"="+s.url+"/v1/messages", "FLOOD_KEY="+key, "FLOOD_CLIENTS="+strconv.Itoa(clients), "FLOOD_BODY="+file)
	child.Stderr = os.Stderr
	input, err := child.StdinPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	var output bytes.Buffer
	child.Stdout = &output
	if err := child.Start(); err != nil {
		w.t.Fatal(err)
	}
	return func() (answers map[int]int) {
		input.Close()
		if err := child.Wait(); err != nil {
			w.t.Fatalf("flood: %v", err)
		}
		if err := json.Unmarshal(output.Bytes(), &answers); err != nil {
			w.t.Fatalf("flood: %v: %s", err, output.Bytes())
		}
		return answers
	}
}

// floodEnv makes this test's program a flood of what it names.
const floodEnv = "FLOOD_URL"

// floods posts until its standard input ends.
func floods(url string) error {
	body, err := os.ReadFile(os.Getenv("FLOOD_BODY"))
	if err != nil {
		return err
	}
	clients, err := strconv.Atoi(os.Getenv("FLOOD_CLIENTS"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := map[int]int{}
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				r, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(body))
				if err != nil {
					return
				}
				r.Header.Set("Authorization", "Bearer "+os.Getenv("FLOOD_KEY"))
				r.Header.Set("Content-Type", "application/json")
				status := 0
				if answer, err := web.Do(r); err == nil {
					_, _ = io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
					status = answer.StatusCode
				}
				mu.Lock()
				answers[status]++
				mu.Unlock()
			}
		})
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	cancel()
	wg.Wait()
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(answers))
}

// TestRateOfAKey is what an operator does: give a key a rate, and another one later.
func TestRateOfAKey(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s := w.server()
	env := []string{"DATABASE_URL=" + w.databaseURL}
	key := strings.TrimSpace(do(t, env, "msg", "keys", "create", "-name", "bulk", "-rate", "2"))
	w.secret(key)
	post := func(key string) answer {
		t.Helper()
		a, err := w.send(t.Context(), "POST", s.url+"/v1/messages", "Bearer "+key, items(20, 10))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := post(key); a.status != http.StatusAccepted {
		t.Fatalf("the first array: %d %s", a.status, a.body)
	}
	a := post(key)
	if p := a.problem(t, http.StatusTooManyRequests); p.Type != "urn:restante:problem:rate-limited" || p.Limit != 2 {
		t.Errorf("%s", a.body)
	}
	if a.header.Get("Retry-After") == "" || a.header.Get("RateLimit-Policy") == "" {
		t.Errorf("header %v", a.header)
	}
	if a := post(w.key); a.status != http.StatusAccepted {
		t.Errorf("another key: %d %s", a.status, a.body)
	}
	do(t, env, "msg", "keys", "rate", key, "-rate", "0")
	eventually(t, "there is no limit", func() bool {
		first, second := post(key).status, post(key).status
		return first == http.StatusAccepted && second == http.StatusAccepted
	})
}
