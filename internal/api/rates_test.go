package api_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"restante/internal/api"
)

// A request is taken whole, however large, and then its key waits; nobody else does.
func TestRates(t *testing.T) {
	t.Parallel()
	array := "[" + strings.TrimSuffix(strings.Repeat(`{"userId":"ann","message":1},`, 1000), ",") + "]"
	users := make([]string, 1000)
	for i := range users {
		users[i] = fmt.Sprintf(`"u-%d"`, i)
	}
	long := strings.Repeat("x", 10_000)
	for name, c := range map[string]struct {
		cfg        api.Config
		credential string
		path, body string
		limit      int64
		unit       string
		seconds    int
		policy     string
	}{
		"array": {api.Config{}, limitedKey, "/v1/messages", array, 5, "messages/s", 200, `"messages";q=5;w=1`},
		"a message for many users": {api.Config{PublisherRate: 50, PublisherBytes: 1_000_000}, publishKey, "/v1/messages",
			`{"users":[` + strings.Join(users, ",") + `],"message":1}`, 50, "messages/s", 20, `"messages";q=50;w=1, "bytes";q=1000000;qu="content-bytes";w=1`},
		"bytes": {api.Config{PublisherBytes: 100}, publishKey, "/message",
			`{"userId":"ann","message":"` + long + `"}`, 100, "bytes/s", 100, `"bytes";q=100;qu="content-bytes";w=1`},
		"client of an issuer": {api.Config{PublisherRate: 10}, "access-token", "/v1/messages", array, 10, "messages/s", 100, `"messages";q=10;w=1`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, c.cfg)
			post := func(credential, body string) reply {
				return g.do(t, "POST", c.path, body, "Authorization", "Bearer "+credential)
			}
			if r := post(c.credential, c.body); r.StatusCode != 202 {
				t.Fatalf("the first request: %d %s", r.StatusCode, r.body)
			}
			accepted := g.log.count()
			r := post(c.credential, `{"userId":"ann","message":"x"}`)
			d := r.problem(t, 429, "rate-limited")
			if d.Limit != c.limit || d.Unit != c.unit {
				t.Errorf("limit %d, unit %q", d.Limit, d.Unit)
			}
			retry, err := strconv.Atoi(r.Header.Get("Retry-After"))
			if err != nil || retry > c.seconds || retry < c.seconds-15 {
				t.Errorf("Retry-After %s, want about %d", r.Header.Get("Retry-After"), c.seconds)
			}
			if got := r.Header.Get("RateLimit-Policy"); got != c.policy {
				t.Errorf("RateLimit-Policy %s, want %s", got, c.policy)
			}
			item := regexp.MustCompile(`^"(messages|bytes)";r=0;t=(\d+)$`).FindStringSubmatch(r.Header.Get("RateLimit"))
			if item == nil || item[2] != r.Header.Get("Retry-After") || !strings.HasPrefix(c.unit, item[1]) {
				t.Errorf("RateLimit %s", r.Header.Get("RateLimit"))
			}
			if n, err := testutil.GatherAndCount(g.registry, "restante_publisher_rate_limited_total"); err != nil || n != 2 {
				t.Errorf("%d series of refusals, %v", n, err)
			}
			if g.log.count() != accepted {
				t.Error("something of the refused request was accepted")
			}
			// A body that is refused is not read, and looking at status is no post.
			post(c.credential, "not JSON").problem(t, 429, "rate-limited")
			if r := g.do(t, "POST", c.path, `{"userId":"team-1","message":"x"}`, "Authorization", "Bearer "+teamKey); r.StatusCode != 202 {
				t.Errorf("another key: %d %s", r.StatusCode, r.body)
			}
			g.do(t, "GET", "/v1/users/ann/messages/1", "", "Authorization", "Bearer "+readKey)
		})
	}
}

// A rate of 0 of a key's own is no limit, whatever the default.
func TestRateOfZeroIsNoLimit(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{PublisherRate: 1})
	for range 20 {
		if r := g.do(t, "POST", "/v1/messages", `[{"userId":"ann","message":1},{"userId":"ann","message":1}]`, "Authorization", "Bearer "+unlimitedKey); r.StatusCode != 202 {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
	}
}
