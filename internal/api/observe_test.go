package api_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"restante/internal/api"
)

// counter returns the sum of the samples of a metric that have all the labels.
func (g *gateway) counter(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := g.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			got := map[string]string{}
			for _, l := range m.GetLabel() {
				got[l.GetName()] = l.GetValue()
			}
			matches := true
			for i := 0; i < len(labels); i += 2 {
				matches = matches && got[labels[i]] == labels[i+1]
			}
			if matches {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	for range 3 {
		g.post(t, `{"userId":"ann","message":1}`)
	}
	g.post(t, `{`)
	g.do(t, "GET", "/v1/messages", "")
	g.do(t, "BREW", "/v1/messages", "")
	g.do(t, "GET", "/no/such/path/4711", "")
	g.do(t, "GET", "/v1/users/ann", "", "Authorization", "Bearer "+readKey)
	_, answer := dial(t, g, handshake("/v1/connect?token=token-for-ann", upgrade))
	if _, err := io.ReadAll(answer); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		return g.counter(t, "restante_http_requests_total", "route", "/v1/connect", "code", "101") == 1
	})
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"restante_http_requests_total", []string{"route", "/v1/messages", "method", "POST", "code", "202"}, 3},
		{"restante_http_requests_total", []string{"route", "/v1/messages", "method", "POST", "code", "400"}, 1},
		{"restante_http_requests_total", []string{"route", "/v1/messages", "method", "GET", "code", "405"}, 1},
		{"restante_http_requests_total", []string{"route", "/v1/messages", "method", "other", "code", "405"}, 1},
		{"restante_http_requests_total", []string{"route", "unknown", "method", "GET", "code", "404"}, 1},
		{"restante_http_requests_total", []string{"route", "/v1/users/{user}", "method", "GET", "code", "200"}, 1},
		{"restante_http_request_seconds", []string{"route", "/v1/messages"}, 6},
		{"restante_http_request_seconds", []string{"route", "/v1/connect"}, 0},
		{"restante_http_in_flight", nil, 0},
	} {
		if got := g.counter(t, c.name, c.labels...); got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
	var names []string
	families, err := g.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		names = append(names, f.GetName())
	}
	// Dashboards and alerts are written against these names.
	want := []string{"restante_http_in_flight", "restante_http_request_seconds", "restante_http_requests_total", "restante_publisher_rate_limited_total"}
	if !slices.Equal(names, want) {
		t.Errorf("metrics %v, want %v", names, want)
	}
	for _, line := range []string{"route=/v1/messages", "status=202", "publisher=shop"} {
		if out := g.output.String(); !strings.Contains(out, line) {
			t.Errorf("the access log has no %q:\n%s", line, out)
		}
	}
}

func TestInFlight(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	g.log.block = make(chan struct{})
	done := make(chan reply)
	go func() { done <- g.post(t, `{"userId":"ann","message":1}`) }()
	eventually(t, func() bool { return g.counter(t, "restante_http_in_flight", "route", "/v1/messages") == 1 })
	close(g.log.block)
	(<-done).receipt(t)
	eventually(t, func() bool { return g.counter(t, "restante_http_in_flight", "route", "/v1/messages") == 0 })
}

// A publisher that hangs up is counted as such, not as our failure.
func TestClientHangsUp(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	g.log.block = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", g.URL+"/v1/messages", strings.NewReader(`{"userId":"ann","message":1}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+publishKey)
	r.Header.Set("Content-Type", "application/json")
	done := make(chan error)
	go func() {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	eventually(t, func() bool { return g.counter(t, "restante_http_in_flight", "route", "/v1/messages") == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the request ended with %v", err)
	}
	eventually(t, func() bool { return g.counter(t, "restante_http_requests_total", "code", "499") == 1 })
	if out := g.output.String(); strings.Contains(out, "request failed") {
		t.Errorf("log:\n%s", out)
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	g.log.panics = true
	r := g.post(t, `{"userId":"ann","message":"payload-42"}`)
	r.problem(t, 500, "internal")
	if !r.Close || strings.Contains(string(r.body), "fire") {
		t.Errorf("close %v, %s", r.Close, r.body)
	}
	out := g.output.String()
	if !strings.Contains(out, "the log is on fire") || !strings.Contains(out, "publish.go") || strings.Contains(out, "payload-42") {
		t.Errorf("log:\n%s", out)
	}
	if got := g.counter(t, "restante_http_requests_total", "route", "/v1/messages", "code", "500"); got != 1 {
		t.Errorf("%v panics counted", got)
	}
	if got := g.counter(t, "restante_http_in_flight"); got != 0 {
		t.Errorf("%v requests still in flight", got)
	}
	g.log.panics = false
	g.works(t)
}

func TestAdmin(t *testing.T) {
	t.Parallel()
	g := newEdge(api.Config{}, slog.LevelInfo)
	server := httptest.NewServer(g.api.Admin())
	defer server.Close()
	get := func(path string) (int, string) {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	for _, c := range []struct {
		ready  api.Readiness
		status int
		want   string
	}{
		{api.Readiness{Checks: []api.Check{{Name: "log"}, {Name: "listener"}}}, 200,
			`{"ready":true,"draining":false,"checks":[{"name":"log","ok":true},{"name":"listener","ok":true}]}`},
		{api.Readiness{Checks: []api.Check{{Name: "log"}, {Name: "listener", Err: errors.New("not connected")}}}, 503,
			`{"ready":false,"draining":false,"checks":[{"name":"log","ok":true},{"name":"listener","ok":false,"error":"not connected"}]}`},
		{api.Readiness{Draining: true, Checks: []api.Check{{Name: "log"}}}, 503,
			`{"ready":false,"draining":true,"checks":[{"name":"log","ok":true}]}`},
		{api.Readiness{}, 200, `{"ready":true,"draining":false,"checks":[]}`},
	} {
		*g.ready = c.ready
		if status, body := get("/readyz"); status != c.status || body != c.want+"\n" {
			t.Errorf("/readyz: %d %s, want %d %s", status, body, c.status, c.want)
		}
	}
	if status, body := get("/livez"); status != 200 || body != "ok\n" {
		t.Errorf("/livez: %d %s", status, body)
	}
	g.api.Handler() // resolves the counters, so that there is something to show
	if status, body := get("/metrics"); status != 200 || !strings.Contains(body, "# TYPE restante_http_requests_total counter") {
		t.Errorf("/metrics: %d %s", status, body)
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1", "/debug/pprof/cmdline"} {
		if status, _ := get(path); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	if status, _ := get("/v1/messages"); status != 404 {
		t.Errorf("the public API answers on the admin listener: %d", status)
	}
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("did not happen in 10 s")
		}
		<-tick.C
	}
}
