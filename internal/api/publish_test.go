package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"restante/internal/api"
	"restante/internal/events"
)

type receipt struct {
	UserID     string    `json:"userId"`
	Seq        int64     `json:"seq"`
	AcceptedAt string    `json:"acceptedAt"`
	ExpiresAt  string    `json:"expiresAt"`
	Repeated   bool      `json:"repeated"`
	Problem    *document `json:"problem"`
}

func (r reply) receipt(t *testing.T) receipt {
	t.Helper()
	var got receipt
	if r.StatusCode != http.StatusAccepted {
		t.Fatalf("status %d, want 202; body %s", r.StatusCode, r.body)
	}
	if err := strictly(r.body, &got); err != nil {
		t.Fatalf("answer %s: %v", r.body, err)
	}
	return got
}

func (r reply) results(t *testing.T) []receipt {
	t.Helper()
	var got struct {
		Results []receipt `json:"results"`
	}
	if err := json.Unmarshal(r.body, &got); err != nil {
		t.Fatalf("answer %s: %v", r.body, err)
	}
	return got.Results
}

func TestPostOne(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := g.post(t, "\n {\"userId\": \"Zoë/1\", \"message\" : {\"a\": [1,  2.0e1], \"b\":\"\\u00e9\\/\"}\t, \"type\":\"result\", \"ttl\":60}\n",
		"Traceparent", trace, "Content-Type", "Application/JSON; charset=UTF-8")
	got := r.receipt(t)
	want := receipt{UserID: "Zoë/1", Seq: 1, AcceptedAt: "2026-11-23T10:00:00.123Z", ExpiresAt: "2026-11-23T10:01:00.123Z"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if l := r.Header.Get("Location"); l != "/v1/users/Zo%C3%AB%2F1/messages/1" {
		t.Errorf("Location %q", l)
	}
	m := g.log.last(t)
	if string(m.Payload) != `{"a": [1,  2.0e1], "b":"\u00e9\/"}` {
		t.Errorf("the message's bytes were changed: %s", m.Payload)
	}
	if m.UserID != "Zoë/1" || m.Type != "result" || m.TTL != time.Minute || m.Publisher != "shop" || m.Traceparent != trace || m.Key != "" {
		t.Errorf("appended %+v", m)
	}
	// The way it says leads there.
	if r := g.do(t, "GET", r.Header.Get("Location"), "", "Authorization", "Bearer "+readKey); r.StatusCode != http.StatusOK {
		t.Errorf("GET Location: %d %s", r.StatusCode, r.body)
	}
}

func TestPostAnyValue(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{MaxMessageBytes: 100})
	var accepted []string
	for _, value := range []string{
		`""`, `"text"`, `0`, `-1.5e+3`, `true`, `false`, `[]`, `{}`, `[null]`, `"\u0000"`, `"\ud800"`, `"😀"`, `"\\\""`, `{"a":{"b":["}"]}}`,
		`"` + strings.Repeat("x", 98) + `"`,
	} {
		r := g.post(t, `{"message":`+value+`,"userId":"ann"}`)
		if r.StatusCode != http.StatusAccepted {
			t.Errorf("%s: %d %s", value, r.StatusCode, r.body)
			continue
		}
		m := g.log.last(t)
		if string(m.Payload) != value {
			t.Errorf("sent %s, appended %s", value, m.Payload)
		}
		if m.TTL != 30*24*time.Hour {
			t.Errorf("ttl %v, want the default of 30 days", m.TTL)
		}
		accepted = append(accepted, value)
	}
	// The log keeps payloads: later requests must not write over them.
	for i, m := range g.log.appended {
		if string(m.Payload) != accepted[i] {
			t.Errorf("message %d is %s now, was %s", i+1, m.Payload, accepted[i])
		}
	}
}

func TestSeedMessagePath(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	auth := []string{"Authorization", "Bearer " + publishKey}
	if got := g.do(t, "POST", "/message", `{"userId":"ann","message":"Serverless is cool!"}`, auth...).receipt(t); got.Seq != 1 {
		t.Errorf("got %+v", got)
	}
	g.do(t, "POST", "/message", `{"userId":"ann","message":{"not":"a string"}}`, auth...).problem(t, 422, "invalid-message")
	g.do(t, "POST", "/message", `[{"userId":"ann","message":"a"}]`, auth...).problem(t, 422, "invalid-message")
	g.do(t, "POST", "/message", `{"userId":"ann","message":"a","ttl":3}`, auth...).problem(t, 400, "unknown-field")
	g.do(t, "POST", "/message", `{"userId":"ann","message":"a"}`).problem(t, 401, "unauthenticated")
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	first := g.post(t, `{"userId":"ann","message":"paid"}`, "Idempotency-Key", "k1").receipt(t)
	again := g.post(t, `{"userId":"ann","message":"paid"}`, "Idempotency-Key", "k1").receipt(t)
	if !again.Repeated || again.Seq != first.Seq || again.AcceptedAt != first.AcceptedAt {
		t.Errorf("repeated: %+v, first: %+v", again, first)
	}
	g.post(t, `{"userId":"ann","message":"unpaid"}`, "Idempotency-Key", "k1").problem(t, 409, "idempotency-key-reused")

	for _, key := range []string{" ", "a b", "é", "a\tb", strings.Repeat("k", 256)} {
		d := g.post(t, `{"userId":"ann","message":1}`, "Idempotency-Key", key).problem(t, 400, "invalid-idempotency-key")
		if d.Limit != 255 || d.Field != "Idempotency-Key" {
			t.Errorf("%+v", d)
		}
	}
	g.post(t, `{"userId":"ann","message":1}`, "Idempotency-Key", strings.Repeat("k", 255)).receipt(t)

	// In arrays: the item's own key, or the header's with the item's place.
	g.post(t, `[{"userId":"ann","message":1},{"userId":"bob","message":2,"idempotencyKey":"own"}]`, "Idempotency-Key", "k2")
	m := g.log.appended[len(g.log.appended)-2:]
	if m[0].Key != "k2#0" || m[1].Key != "own" {
		t.Errorf("keys %q and %q, want k2#0 and own", m[0].Key, m[1].Key)
	}
	r := g.post(t, `[{"userId":"ann","message":1},{"userId":"bob","message":3,"idempotencyKey":"own"},{"userId":"cid","message":3}]`, "Idempotency-Key", "k2")
	got := r.results(t)
	if r.StatusCode != 202 || !got[0].Repeated || got[1].Problem.Status != 409 || got[2].Seq != 1 {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	// One message for many users: the same key for each.
	g.post(t, `{"users":["dan","eve"],"message":1}`, "Idempotency-Key", "k3")
	again2 := g.post(t, `{"users":["dan","eve","fay"],"message":1}`, "Idempotency-Key", "k3").results(t)
	if !again2[0].Repeated || !again2[1].Repeated || again2[2].Repeated {
		t.Errorf("%+v", again2)
	}
}

func TestArray(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	r := g.post(t, ` [ {"userId":"ann","message":1} , {"userId":"","message":2}, {"userId":"ann","message":null}, 7,
		{"userId":"ann","message":3,"colour":"red"}, {"users":["ann"],"message":3}, {"userId":"ann","message":{"n":4}} ] `)
	if r.StatusCode != http.StatusAccepted {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	got := r.results(t)
	want := []string{"", "invalid-message", "invalid-message", "invalid-message", "unknown-field", "unknown-field", ""}
	if len(got) != len(want) {
		t.Fatalf("%d results, want %d: %s", len(got), len(want), r.body)
	}
	for i, name := range want {
		switch {
		case name == "" && (got[i].Problem != nil || got[i].UserID != "ann" || got[i].Seq == 0):
			t.Errorf("item %d: %+v, want it accepted", i, got[i])
		case name != "" && (got[i].Problem == nil || got[i].Problem.Type != "urn:restante:problem:"+name || got[i].Seq != 0):
			t.Errorf("item %d: %+v, want %s", i, got[i], name)
		}
	}
	if got[0].Seq != 1 || got[6].Seq != 2 || g.log.count() != 2 || string(g.log.last(t).Payload) != `{"n":4}` {
		t.Errorf("the valid items were not appended in order: %s", r.body)
	}
}

func TestUsers(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	r := g.post(t, `{"users":["ann","bob","","ann","a\u0007b"],"message":"all","type":"news","ttl":5}`)
	if r.StatusCode != http.StatusAccepted {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	got := r.results(t)
	if len(got) != 5 || got[0].UserID != "ann" || got[0].Seq != 1 || got[1].UserID != "bob" || got[1].Seq != 1 ||
		got[2].Problem == nil || got[3].Problem == nil || got[4].Problem == nil || g.log.count() != 2 {
		t.Errorf("%s", r.body)
	}
	if m := g.log.last(t); m.Type != "news" || m.TTL != 5*time.Second || string(m.Payload) != `"all"` {
		t.Errorf("%+v", m)
	}
}

func TestAllRefused(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{MaxMessageBytes: 10})
	d := g.post(t, `[{"userId":"ann","message":"too long for ten"},{"userId":"bob","message":"too long for ten"}]`).
		problem(t, 413, "message-too-large")
	if !strings.Contains(string(d.Results), `"limit":10`) {
		t.Errorf("results %s do not say the limit", d.Results)
	}
	d = g.post(t, `[{"userId":"ann","message":"too long for ten"},{"userId":"bob","massage":1}]`).problem(t, 422, "invalid-message")
	var results []receipt
	if err := strictly(d.Results, &results); err != nil || len(results) != 2 {
		t.Errorf("results %s: %v", d.Results, err)
	}
	g.post(t, `[{"userId":"ann","message":1,"idempotencyKey":"k"}]`)
	g.post(t, `[{"userId":"ann","message":2,"idempotencyKey":"k"}]`).problem(t, 409, "idempotency-key-reused")
	if g.log.count() != 1 {
		t.Errorf("%d messages were appended, want 1", g.log.count())
	}
}

func TestGroupLimits(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{MaxBodyBytes: 100_000})
	array := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"userId":"ann","message":1},`, n), ",") + "]"
	}
	users := func(n int, message string) string {
		var ids []string
		for i := range n {
			ids = append(ids, fmt.Sprintf("%q", fmt.Sprint("user-", i)))
		}
		return `{"message":` + message + `,"users":[` + strings.Join(ids, ",") + "]}"
	}
	if r := g.post(t, array(1000)); r.StatusCode != 202 || len(r.results(t)) != 1000 {
		t.Errorf("1000 messages: %d %.200s", r.StatusCode, r.body)
	}
	if r := g.post(t, users(1000, "1")); r.StatusCode != 202 || len(r.results(t)) != 1000 {
		t.Errorf("1000 users: %d %.200s", r.StatusCode, r.body)
	}
	if d := g.post(t, array(1001)).problem(t, 422, "too-many-messages"); d.Limit != 1000 {
		t.Errorf("%+v", d)
	}
	if d := g.post(t, users(1001, "1")).problem(t, 422, "too-many-messages"); d.Limit != 1000 || d.Field != "users" {
		t.Errorf("%+v", d)
	}
	if d := g.post(t, users(1000, `"`+strings.Repeat("x", 99)+`"`)).problem(t, 413, "message-too-large"); d.Limit != 100_000 {
		t.Errorf("%+v", d)
	}
	g.post(t, `[]`).problem(t, 422, "invalid-message")
	g.post(t, `{"users":[],"message":1}`).problem(t, 422, "invalid-message")
	g.works(t)
}

func TestLogFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err    error
		status int
		name   string
		retry  bool
	}{
		{events.ErrOverloaded, 503, "overloaded", true},
		{fmt.Errorf("append: %w: dial secret-host:5432", events.ErrUnavailable), 503, "unavailable", true},
		{fmt.Errorf("append: %w", events.ErrOutcomeUnknown), 503, "outcome-unknown", true},
		{fmt.Errorf("disk on secret-host melted"), 500, "internal", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := start(t, api.Config{})
			g.log.fail = c.err
			for _, body := range []string{`{"userId":"ann","message":"payload-42"}`, `[{"userId":"ann","message":"payload-42"}]`, `{"users":["ann"],"message":"payload-42"}`} {
				r := g.post(t, body)
				r.problem(t, c.status, c.name)
				if got := r.Header.Get("Retry-After"); (got != "") != c.retry || got == "0" {
					t.Errorf("Retry-After %q", got)
				}
				if strings.Contains(string(r.body), "secret-host") {
					t.Errorf("the cause is shown: %s", r.body)
				}
			}
			if out := g.output.String(); strings.Count(out, "request failed") != 3 || !strings.Contains(out, c.err.Error()) ||
				strings.Contains(out, "payload-42") || strings.Contains(out, publishKey) {
				t.Errorf("log:\n%s", out)
			}
		})
	}
}

func TestLogRefusesValues(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	g.log.itemErr = fmt.Errorf("SQLSTATE 22021 in secret table")
	for _, body := range []string{`{"userId":"ann","message":1}`, `[{"userId":"ann","message":1}]`} {
		r := g.post(t, body)
		r.problem(t, 422, "invalid-message")
		if strings.Contains(string(r.body), "SQLSTATE") {
			t.Errorf("the cause is shown: %s", r.body)
		}
	}
}

// A user whose messages nobody receives fills up; the others' in the same request do
// not notice, and the publisher is told the limit.
func TestFullUserIsRefusedByName(t *testing.T) {
	t.Parallel()
	g := start(t, api.Config{})
	g.log.itemErr = &events.TooManyPendingError{Limit: 100_000}
	r := g.post(t, `{"userId":"ann","message":1}`)
	r.problem(t, 409, "too-many-pending")
	if !strings.Contains(string(r.body), `"limit":100000`) {
		t.Errorf("%s", r.body)
	}
}
