package api

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// routes is the whole public API.
func (a *API) routes() []route {
	return []route{
		{method: "GET", path: "/{$}", handle: a.index, success: 200, about: "this page"},

		// Back ends. Authorization: Bearer <API key or access token>.
		{method: "POST", path: "/v1/messages", handle: a.postMessages, success: 202, about: "post one message, one message for many users, or an array"},
		{method: "GET", path: "/v1/users/{user}", handle: a.getUser, success: 200, cors: true, about: "a user's sessions and pending messages"},
		{method: "GET", path: "/v1/users/{user}/messages/{seq}", handle: a.getMessage, success: 200, cors: true, about: "what became of a message"},

		// Users. Authorization: Bearer <ID token> for a token, the token for a connection.
		{method: "POST", path: "/v1/tokens", handle: a.postTokens, success: 200, cors: true, about: "get the token that opens one connection"},
		{method: "GET", path: "/v1/connect", handle: a.connect, success: 101, upgrade: true, effects: true, about: "receive messages: WebSocket, with ?token="},

		// The paths of the AWS sample this gateway takes the place of, as its clients use them.
		{method: "POST", path: "/message", handle: a.postMessage, success: 202, about: "as POST /v1/messages, {userId, message}, message a string"},
		{method: "GET", path: "/tokens", handle: a.getTokens, success: 200, cors: true, effects: true, about: "as POST /v1/tokens"},
		{method: "GET", path: "/ws", handle: a.connect, success: 101, upgrade: true, effects: true, about: "as GET /v1/connect"},
	}
}

// route is one line of the table above, and where it is counted.
type route struct {
	method  string
	path    string
	handle  func(x *exchange, r *http.Request) *problem
	success int    // the status of nearly every request: its counter is resolved before
	cors    bool   // pages of allowed origins may read the answer
	upgrade bool   // becomes a WebSocket: its duration says nothing, its refusals are logged
	effects bool   // a GET that changes something: HEAD must not do the same
	about   string // for the index

	succeeded   prometheus.Counter
	seconds     prometheus.Observer // nil for upgrade
	inFlight    prometheus.Gauge
	contentType []string // shared by all answers
}

// Handler serves the public API. It may be called once or more; all handlers
// count into the same metrics.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	others := map[string]*other{}
	for _, rt := range a.routes() {
		mux.Handle(rt.method+" "+rt.path, a.mount(rt))
		o := others[rt.path]
		if o == nil {
			o = &other{}
			others[rt.path] = o
		}
		o.add(&rt)
	}
	for path, o := range others {
		handler := a.mount(route{path: path, handle: o.handler(a)})
		mux.Handle(path, handler)
		if o.effects {
			mux.Handle("HEAD "+path, handler)
		}
	}
	mux.Handle("/", a.mount(route{path: "unknown", handle: a.noSuchPath}))
	return mux
}

// mount resolves a route's metrics.
func (a *API) mount(rt route) http.Handler {
	rt.inFlight = a.metrics.inFlight.WithLabelValues(rt.path)
	if !rt.upgrade {
		rt.seconds = a.metrics.seconds.WithLabelValues(rt.path)
	}
	if rt.method != "" {
		rt.succeeded = a.metrics.requests.WithLabelValues(rt.path, rt.method, strconv.Itoa(rt.success))
	}
	rt.contentType = []string{"application/json"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { a.serve(&rt, w, r) })
}

// other is what a path answers to the methods it does not have.
type other struct {
	allow   []string
	cors    bool
	effects bool
}

func (o *other) add(rt *route) {
	o.allow = append(o.allow, rt.method)
	if rt.method == http.MethodGet && !rt.effects {
		o.allow = append(o.allow, http.MethodHead)
	}
	if rt.cors && !o.cors {
		o.allow = append(o.allow, http.MethodOptions)
	}
	o.cors = o.cors || rt.cors
	o.effects = o.effects || rt.effects
}

// handler answers 405, and a browser's preflight where it may read the answers.
func (o *other) handler(a *API) func(*exchange, *http.Request) *problem {
	slices.Sort(o.allow)
	allow := strings.Join(o.allow, ", ")
	return func(x *exchange, r *http.Request) *problem {
		if o.cors && r.Method == http.MethodOptions {
			a.cors.preflight(x, r, allow)
			return nil
		}
		x.Header().Set("Allow", allow)
		return &problem{kind: methodNotAllowed, detail: "This path answers " + allow + "."}
	}
}

func (a *API) noSuchPath(*exchange, *http.Request) *problem {
	return &problem{kind: notFound, detail: "GET / lists the paths there are."}
}

// index says what answers here, for whoever opens the address in a browser.
func (a *API) index(x *exchange, r *http.Request) *problem {
	var b strings.Builder
	b.WriteString("Restante: messages for users, kept until they call for them.\n\n")
	b.WriteString("A message that was answered 202 is on disk. It is delivered to its user's clients\n" +
		"in the order in which it was accepted, at least once, until a client acknowledges\n" +
		"it or it expires.\n\n")
	for _, rt := range a.routes() {
		method := rt.method + strings.Repeat(" ", 6-len(rt.method))
		path := strings.TrimSuffix(rt.path, "{$}")
		b.WriteString(method + path + strings.Repeat(" ", max(1, 34-len(path))) + rt.about + "\n")
	}
	b.WriteString("\nEvery error is a problem document (RFC 9457) that says what to do. The README of\n" +
		"the gateway has examples with curl, the limits, and the WebSocket protocol.\n")
	x.Header().Set("Content-Type", "text/plain; charset=utf-8")
	return x.write(http.StatusOK, []byte(b.String()))
}
