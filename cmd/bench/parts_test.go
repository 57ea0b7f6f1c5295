package main

import (
	"context"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"restante/internal/devstack"
)

func TestHistogram(t *testing.T) {
	t.Parallel()
	var h histogram
	if h.quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	for range 20_000 {
		d := time.Duration(1 << rnd.IntN(40))
		d += rand.N(d)
		h.record(d)
		all = append(all, d)
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(q*float64(len(all)-1))]
		if got := h.quantile(q); got < want-want/50-1 || got > want+want/50+1 {
			t.Errorf("quantile %v = %v, want %v within 2 %%", q, got, want)
		}
	}
	if s := h.spread(); s.Count != 20_000 || s.Max < s.P99 {
		t.Errorf("spread: %+v", s)
	}
}

// TestBuckets looks at the edges: each value falls into a bucket whose middle
// is near, and greater values never into lower buckets.
func TestBuckets(t *testing.T) {
	t.Parallel()
	last := 0
	for shift := range 63 {
		for _, n := range []uint64{1<<shift - 1, 1 << shift, 1<<shift + 1<<shift>>1} {
			bucket := bucketOf(n)
			if bucket < last || bucket >= 64<<histogramBits {
				t.Fatalf("%d is in bucket %d after %d", n, bucket, last)
			}
			last = bucket
			if middle := middleOf(bucket); middle > n+n/64+1 || middle < n-n/64 {
				t.Fatalf("%d is in bucket %d, whose middle is %d", n, bucket, middle)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	cases := []struct {
		args string
		want string // in the error; "" for none
	}{
		{"", ""},
		{"-url http://127.0.0.1:8080,http://[::1]:8081 -database-url x -api-key-file k", ""},
		{"-url http://192.0.2.1:8080 -database-url x -api-key-file k", "this machine only"},
		{"-url http://gateway.example:80 -database-url x -api-key-file k", "this machine only"},
		{"-url https://127.0.0.1:8080 -database-url x -api-key-file k", "not of the form"},
		{"-url http://127.0.0.1:8080 -database-url x -api-key-file k -issuer http://192.0.2.1:1", "-issuer"},
		{"-url http://127.0.0.1:8080 -api-key-file k", "-database-url"},
		{"-url http://127.0.0.1:8080 -database-url x", "-api-key-file"},
		{"-url http://127.0.0.1:8080 -database-url x -api-key-file k -admin http://192.0.2.1:1", "-admin"},
		{"-publishers 0", "-publishers is 0"},
		{"-size 10", "-size"},
		{"-duration 48h", "-duration"},
		{"-target moon", "-target"},
		{"-target floor -replicas 2", "one replica"},
		{"-cross", "-replicas"},
		{"more", `"more"`},
		{"-connected 300000", "-connected"},
		{"-users 60000", "-connected"},
		{"-group 0", "-group"},
	}
	for _, tc := range cases {
		_, err := parseOptions(mode{name: "throughput"}, strings.Fields(tc.args), io.Discard)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%q: error %v, want one with %q", tc.args, err, tc.want)
		}
	}
	for args, m := range map[string]mode{
		"-url http://127.0.0.1:8080 -database-url x -api-key-file k": {name: "soak", own: true},
		"-replicas 1":               {name: "storm"},
		"-streams 10 -jobs 11":      {name: "offline"},
		"-every 1ms":                {name: "soak"},
		"-connections 1000000":      {name: "idle"},
		"-backlog 5 -users 2000000": {name: "storm", defaults: func(o *options) { o.replicas = 2 }},
	} {
		if _, err := parseOptions(m, strings.Fields(args), io.Discard); err == nil {
			t.Errorf("%s %s is not refused", m.name, args)
		}
	}
	if _, err := parseOptions(mode{name: "drain"}, []string{"-users", "100000", "-backlog", "10000"}, io.Discard); err == nil {
		t.Error("a backlog of a billion is not refused")
	}
}

func TestForeignDatabase(t *testing.T) {
	t.Parallel()
	var e environment
	err := e.open(t.Context(), "postgres://192.0.2.1/x")
	if err == nil || !strings.Contains(err.Error(), "this machine only") {
		t.Errorf("error %v", err)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"-h"}, {"throughput", "-h"}, {"compare", "-h"}, {"bars", "-h"}, {"report", "-h"}, {"floor", "-h"}, {"up", "-h"}} {
		var out strings.Builder
		if code := run(t.Context(), args, &out, &out); code != 0 || !strings.Contains(out.String(), "bench ") {
			t.Errorf("%v: code %d\n%s", args, code, out.String())
		}
	}
	for _, args := range [][]string{{}, {"dance"}, {"throughput", "-users", "x"}, {"floor"}, {"floor", "-dsn", "x", "-addr", "0.0.0.0:1"}} {
		if code := run(t.Context(), args, io.Discard, io.Discard); code != 2 {
			t.Errorf("%v: code %d, want 2", args, code)
		}
	}
}

func TestGatewayFrames(t *testing.T) {
	t.Parallel()
	g := newGateway("127.0.0.1:1", []string{"127.0.0.1:1"}, "key", nil, nil)
	message := func(seq int64, payload string) frame {
		return frame{kind: frameMessage, seq: seq, id: seq, payload: []byte(payload)}
	}
	cases := []struct {
		text string
		want frame
	}{
		{`{"kind":"message","seq":12,"time":"2026-01-02T15:04:05.000Z","message":"p1 n2 t3 ...","expires":"x"}`, message(12, `"p1 n2 t3 ..."`)},
		{`{"kind":"message","seq":12,"time":"x","type":"message","message":"a","expires":"x"}`, message(12, `"a"`)},
		{`{"kind":"message","seq":3,"message":"a\"b"}`, message(3, `"a\"b"`)},
		{`{"kind":"message","seq":3,"message":{"message":"in"}}`, message(3, `{"message":"in"}`)},
		{`{"seq":4,"message":null,"kind":"message"}`, message(4, `null`)},
		{`{"kind":"hello","epoch":"e","head":7,"acked":5,"session":"s"}`, frame{kind: frameHello, seq: 7, acked: 5}},
		{`{"kind":"gap","from":3,"to":9,"reason":"expired"}`, frame{kind: frameGap, seq: 3, to: 9, id: 9, reason: "expired"}},
		{`{"kind":"ping"}`, frame{kind: frameOther}},
		{`{"kind":"bye","code":1012,"reason":"drain","reconnectAfterMs":5}`, frame{kind: frameBye, reason: "1012 drain"}},
	}
	for _, tc := range cases {
		got, err := g.parse(0, []byte(tc.text))
		if err != nil || got.kind != tc.want.kind || got.seq != tc.want.seq || got.id != tc.want.id || got.to != tc.want.to ||
			got.acked != tc.want.acked || string(got.payload) != string(tc.want.payload) || got.reason != tc.want.reason {
			t.Errorf("%s\n got %+v (%q), %v\nwant %+v (%q)", tc.text, got, got.payload, err, tc.want, tc.want.payload)
		}
	}
	for _, text := range []string{``, `{}`, `{"kind":"news"}`, `[1]`} {
		if f, err := g.parse(0, []byte(text)); err == nil {
			t.Errorf("%q was taken for %+v", text, f)
		}
	}
	request := string(g.requestGroup(nil, []int{7, 12}, [][]byte{[]byte(`"a"`), []byte(`"bc"`)}))
	_, body, _ := strings.Cut(request, "\r\n\r\n")
	if want := `[{"userId":"bench-7","message":"a"},{"userId":"bench-12","message":"bc"}]`; body != want ||
		!strings.Contains(request, "Content-Length: "+strconv.Itoa(len(want))+"\r\n") {
		t.Errorf("group request %q", request)
	}
	seqs, err := g.answerGroup(nil, []byte(`{"results":[{"userId":"a","seq":3},{"userId":"b","seq":41}]}`), 2)
	if err != nil || !slices.Equal(seqs, []int64{3, 41}) {
		t.Errorf("group answer %v, %v", seqs, err)
	}
	if _, err := g.answerGroup(nil, []byte(`{"results":[{"userId":"a","seq":3},{"userId":"b","problem":{}}]}`), 2); err == nil {
		t.Error("a group with a refused message was taken for one without")
	}
	if seq, err := g.answer([]byte(`{"userId":"bench-1","seq":41,"acceptedAt":"x"}`)); seq != 41 || err != nil {
		t.Errorf("answer: %d, %v", seq, err)
	}
	if _, err := g.answer([]byte(`{}`)); err == nil {
		t.Error("a 202 without a seq was taken")
	}
}

// TestNumbering: ids of one user become 1, 2, 3 …; what comes again keeps its
// number, what was overtaken has none.
func TestNumbering(t *testing.T) {
	t.Parallel()
	var n numbering
	for _, step := range [][2]int64{{10, 1}, {14, 2}, {20, 3}, {10, 1}, {20, 3}, {12, 0}, {21, 4}} {
		if got := n.seq(step[0]); got != step[1] {
			t.Errorf("id %d is seq %d, want %d", step[0], got, step[1])
		}
	}
}

// TestIssuer lets the verifier that gateways use read a token of bench's own.
func TestIssuer(t *testing.T) {
	t.Parallel()
	i, err := startIssuer()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := i.stop(); err != nil {
			t.Error(err)
		}
	}()
	provider, err := oidc.NewProvider(t.Context(), i.url)
	if err != nil {
		t.Fatal(err)
	}
	token, err := i.idToken(context.Background(), 7)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := provider.Verifier(&oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{oidc.ES256}}).Verify(t.Context(), token)
	if err != nil || verified.Subject != "bench-7" {
		t.Errorf("token of %v, %v", verified, err)
	}
	if again, err := i.idToken(context.Background(), 7); again != token || err != nil {
		t.Error("a second token was signed for the same user")
	}
}

func TestSubject(t *testing.T) {
	t.Parallel()
	for token, want := range map[string]string{"e30.eyJzdWIiOiJhIn0.x": "a", "": "", "a.b": "", "a.!.c": "", "a.e30.c": ""} {
		if got := subject(token); got != want {
			t.Errorf("subject(%q) = %q, want %q", token, got, want)
		}
	}
}

// TestDevUsers signs users in at the real development issuer, as runs with -url
// do, and at bench's own, which stands in for it under bench up.
func TestDevUsers(t *testing.T) {
	t.Parallel()
	own, err := startIssuer()
	if err != nil {
		t.Fatal(err)
	}
	defer own.stop()
	server := httptest.NewUnstartedServer(nil)
	development, err := devstack.NewIssuer(devstack.IssuerConfig{URL: "http://" + server.Listener.Addr().String(), Dir: t.TempDir(), ClientID: audience})
	if err != nil {
		t.Fatal(err)
	}
	server.Config.Handler = development.Handler()
	server.Start()
	defer server.Close()
	for _, url := range []string{own.url, server.URL} {
		for range 2 { // the second run finds the user there
			users := newDevUsers(url)
			token, err := users.idToken(t.Context(), 3)
			if err != nil || subject(token) != "bench-3" {
				t.Errorf("token of %q, %v", subject(token), err)
			}
		}
	}
	if _, err := newDevUsers(own.url).call(t.Context(), "/token", "application/x-www-form-urlencoded", "username=bench-3&password=x"); err == nil {
		t.Error("a wrong password was good enough")
	}
}
