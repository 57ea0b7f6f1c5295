package sample

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"

	"restante/internal/devstack"
	"restante/internal/identity"
)

type css = chromedp.CSS

// pageGateway is as much of a gateway as the page needs: single-use tokens and
// restante.v1, with a log in memory. It also takes the sample's results.
type pageGateway struct {
	t      *testing.T
	users  Users
	origin string

	mu     sync.Mutex
	tokens map[string]bool
	log    []string // message frames; the seq is the index plus one
	acked  int
	conn   *websocket.Conn
	opened int
}

func (g *pageGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") == g.origin {
		w.Header().Set("Access-Control-Allow-Origin", g.origin)
		w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
	}
	switch r.Method + " " + r.URL.Path {
	case "POST /v1/messages":
		var in struct{ Message, Type string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		w.WriteHeader(202)
		fmt.Fprintf(w, `{"seq":%d}`, g.append(in.Message, in.Type, r.Header.Get("Traceparent")))
	case "POST /v1/tokens":
		if _, err := g.users.User(r.Context(), r.Header.Get("Authorization")[len("Bearer "):]); err != nil {
			g.t.Errorf("the page's ID token: %v", err)
			w.WriteHeader(401)
			return
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		token := fmt.Sprintf("token-%d", len(g.tokens))
		g.tokens[token] = true
		fmt.Fprintf(w, `{"token":%q}`, token)
	case "GET /v1/connect":
		g.connect(w, r)
	case "OPTIONS /v1/tokens":
	default:
		g.t.Errorf("the page asks for %s %s", r.Method, r.URL.Path)
		w.WriteHeader(404)
	}
}

func (g *pageGateway) append(message, kind, trace string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	seq := len(g.log) + 1
	frame, _ := json.Marshal(map[string]any{"kind": "message", "seq": seq, "time": time.Now().UTC(), "message": message, "type": kind, "traceparent": trace})
	g.log = append(g.log, string(frame))
	if g.conn != nil {
		g.send(string(frame))
	}
	return seq
}

// send writes to the connection; mu is held.
func (g *pageGateway) send(frame string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = g.conn.Write(ctx, websocket.MessageText, []byte(frame)) // lost: it stays in the log
}

func (g *pageGateway) connect(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"restante.v1"}, InsecureSkipVerify: true})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	g.mu.Lock()
	if token := r.URL.Query().Get("token"); !g.tokens[token] || conn.Subprotocol() != "restante.v1" {
		g.t.Errorf("connected with %q, subprotocol %q", token, conn.Subprotocol())
	} else {
		g.tokens[token] = false
	}
	g.conn = conn
	g.opened++
	g.send(fmt.Sprintf(`{"kind":"hello","epoch":"e","head":%d,"acked":%d,"session":"s"}`, len(g.log), g.acked))
	for _, frame := range g.log[g.acked:] {
		g.send(frame)
	}
	g.mu.Unlock()
	for {
		_, data, err := conn.Read(context.Background())
		if err != nil {
			break
		}
		var ack struct {
			Kind string
			Seq  int
		}
		if err := json.Unmarshal(data, &ack); err != nil || ack.Kind != "ack" {
			g.t.Errorf("the page sent %s", data)
		}
		g.mu.Lock()
		g.acked = max(g.acked, ack.Seq)
		g.mu.Unlock()
	}
	g.mu.Lock()
	if g.conn == conn {
		g.conn = nil
	}
	g.mu.Unlock()
}

// lose cuts the connection without a word, after forgetting the last ack.
func (g *pageGateway) lose() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acked--
	g.conn.CloseNow()
}

// until polls a condition on the gateway.
func (g *pageGateway) until(what string, condition func() bool) {
	g.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		g.mu.Lock()
		met := condition()
		g.mu.Unlock()
		if met {
			return
		}
		select {
		case <-deadline:
			g.t.Fatalf("not within 20 s: %s", what)
		case <-tick.C:
		}
	}
}

// browser starts a headless browser. What its console shows fails the test.
func browser(t *testing.T) context.Context {
	t.Helper()
	options := chromedp.DefaultExecAllocatorOptions[:]
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's sandbox does not work for root
	}
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		if _, missing := exec.LookPath("chromium"); missing != nil {
			t.Fatalf("the page is tested in Chromium: install it (apt-get install chromium): %v", err)
		}
		t.Fatal(err)
	}
	return ctx
}

// tab opens a tab; the function closes it.
func tab(t *testing.T, parent context.Context) (context.Context, func()) {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	messages := chromedp.Console(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for m, err := range messages {
			if err != nil {
				return
			}
			// A connection that is cut is in the browser's own log too.
			if m.Source != "network" && m.Source != "javascript" {
				t.Errorf("console: %s", m)
			}
		}
	}()
	return ctx, func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("close tab: %v", err)
		}
		cancel()
		<-done
	}
}

func steps(t *testing.T, ctx context.Context, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for i, action := range actions {
		if err := chromedp.Do(ctx, action); err != nil {
			t.Fatalf("step %d: %v", i+1, err)
		}
	}
}

func texts(t *testing.T, ctx context.Context) string {
	t.Helper()
	got, err := chromedp.Run(ctx, chromedp.Evaluate[string](`[...document.querySelectorAll('#messages li')].map((li) => li.dataset.seq + ':' + li.querySelector('.text').textContent).join('|')`))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// The page in a real browser, with the development issuer: sign in, connect,
// start a task, lose the connection, close the tab, reopen it.
func TestPageInABrowser(t *testing.T) {
	t.Parallel()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	serve := func(l net.Listener, h http.Handler) string {
		server := httptest.NewUnstartedServer(h)
		server.Listener.Close()
		server.Listener = l
		server.Start()
		t.Cleanup(server.Close)
		return server.URL
	}
	pages, issuers := listen(), listen()
	page := "http://" + pages.Addr().String()
	issuer, err := devstack.NewIssuer(devstack.IssuerConfig{
		URL: "http://" + issuers.Addr().String(), Dir: t.TempDir(), ClientID: "restante", AllowedOrigins: []string{page},
	})
	if err != nil {
		t.Fatal(err)
	}
	issuerURL := serve(issuers, issuer.Handler())
	users := identity.New(identity.Config{Issuer: issuerURL, Audiences: []string{"restante"}}, nil)
	gateway := &pageGateway{t: t, users: users, origin: page, tokens: map[string]bool{}}
	gatewayURL := serve(listen(), gateway)
	app, err := New(Config{
		GatewayURL: gatewayURL, APIKey: "key", Users: users,
		Page: Page{Issuer: issuerURL, ClientID: "restante", GatewayURL: gatewayURL},
		Log:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	stop := (&bench{app: app}).run(t)
	defer stop()
	serve(pages, app.Handler())

	open := browser(t)
	first, closeFirst := tab(t, open)
	steps(t, first,
		chromedp.Navigate(page), chromedp.Click(css("#sign-in")),
		chromedp.SendKeys(css("#username"), "ada"), chromedp.SendKeys(css("#password"), "Correct-Horse-1"),
		chromedp.Click(css("button[value=create]")),
		chromedp.WaitVisible(css("#user[data-user-id=ada]")),
		chromedp.Click(css("#connect")), chromedp.WaitVisible(css("#state[data-state=connected]")))
	if at, err := chromedp.Run(first, chromedp.Location()); err != nil || at != page+"/" {
		t.Errorf("after signing in the address is %s, %v", at, err)
	}

	steps(t, first,
		chromedp.SetValue(css("#task-message"), "<b>first</b>"), chromedp.SetValue(css("#task-wait"), "0"), chromedp.Click(css("#task-start")),
		chromedp.WaitVisible(css("#messages li[data-seq='1'][data-type='sample.result']")), chromedp.WaitVisible(css("#tasks li[data-status=done]")))
	gateway.until("message 1 is confirmed", func() bool { return gateway.acked == 1 })

	// A repeated message is not shown twice, and is confirmed again.
	gateway.lose()
	gateway.until("connected again, and confirmed again", func() bool { return gateway.opened == 2 && gateway.acked == 1 })
	gateway.append("second", "", "")
	steps(t, first, chromedp.WaitVisible(css("#messages li[data-seq='2']")))
	if got, want := texts(t, first), "1:<b>first</b>|2:second"; got != want {
		t.Errorf("the page shows %s, want %s", got, want)
	}
	gateway.until("message 2 is confirmed", func() bool { return gateway.acked == 2 })

	closeFirst()
	gateway.until("disconnected with the tab", func() bool { return gateway.conn == nil })
	gateway.append("third", "", "")
	second, closeSecond := tab(t, open)
	defer closeSecond()
	// Still signed in, connected by itself, the old messages there with the new one.
	steps(t, second, chromedp.Navigate(page), chromedp.WaitVisible(css("#messages li[data-seq='3']")))
	if got, want := texts(t, second), "1:<b>first</b>|2:second|3:third"; got != want {
		t.Errorf("the reopened page shows %s, want %s", got, want)
	}

	// What is missing is said.
	gateway.until("message 3 is confirmed", func() bool { return gateway.acked == 3 })
	gateway.mu.Lock()
	gateway.send(`{"kind":"gap","from":4,"to":5,"reason":"expired"}`)
	gateway.send(`{"kind":"message","seq":6,"time":"2030-01-02T03:04:05.000Z","message":{"order":17}}`)
	gateway.mu.Unlock()
	steps(t, second, chromedp.WaitVisible(css("#messages li[data-gap='4-5'][data-reason=expired]")), chromedp.WaitVisible(css("#messages li[data-seq='6']")))

	steps(t, second,
		chromedp.Click(css("#disconnect")), chromedp.WaitVisible(css("#state[data-state=offline]")),
		chromedp.Click(css("#sign-out")), chromedp.WaitVisible(css("#sign-in")), chromedp.WaitNotPresent(css("#messages li")))
	if left, err := chromedp.Run(second, chromedp.Evaluate[int](`localStorage.length`)); err != nil || left != 0 {
		t.Errorf("after signing out, localStorage has %d entries, %v", left, err)
	}
	// An answer that this tab has not asked for is refused, and told.
	steps(t, second, chromedp.Navigate(page+"/?code=x&state=forged"), chromedp.WaitVisible(css("#notice:not([hidden])")), chromedp.WaitVisible(css("#sign-in")))
}
