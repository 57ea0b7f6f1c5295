package api

import (
	"bufio"
	"context"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// metrics of the edge. Routes are the patterns of routes.go and methods the
// well-known ones, so the number of series is bounded.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	refused  *prometheus.CounterVec
	limited  *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "restante_http_requests_total",
			Help: "HTTP requests, by route, method and status; 499 is a client that hung up before its answer.",
		}, []string{"route", "method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "restante_http_request_seconds",
			Help:    "Time from a request's header to the end of its answer, without WebSockets.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}, []string{"route"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "restante_http_in_flight",
			Help: "HTTP requests being served, by route.",
		}, []string{"route"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "restante_connect_refused_total",
			Help: "Connections refused before the WebSocket handshake, by reason; a browser only sees that it failed.",
		}, []string{"reason"}),
	}
	m.limited = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "restante_publisher_rate_limited_total",
		Help: "Posts refused because their publisher exceeded its rate, by the rate's unit.",
	}, []string{"unit"})
	reg.MustRegister(m.requests, m.seconds, m.inFlight, m.refused, m.limited)
	for _, unit := range []string{unitMessages, unitBytes} {
		m.limited.WithLabelValues(unit)
	}
	return m
}

// exchange is one request being answered: the response writer handlers write
// to, which remembers what the metrics and logs need.
type exchange struct {
	http.ResponseWriter
	route     *route
	status    int    // as written; 0 before
	publisher string // once authenticated
	gone      bool   // the client did not wait for its answer

	credential string // whose share of the replica it takes; once authenticated
	reserved   int64  // bytes of bodies that this one's body takes
}

func (x *exchange) WriteHeader(status int) {
	if x.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(b []byte) (int, error) {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	return x.ResponseWriter.Write(b)
}

// Hijack is here, and not left to Unwrap, so that the status is known.
func (x *exchange) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err == nil && x.status == 0 {
		x.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController reach flushing and deadlines.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// chunkedFrom is the length from which net/http sends a body of unknown length in
// chunks, with a write to the socket for each.
const chunkedFrom = 2048

// answer writes a JSON answer. A client that is gone is no failure of ours.
func (x *exchange) answer(status int, body []byte) *problem {
	x.Header()["Content-Type"] = x.route.contentType
	return x.write(status, body)
}

func (x *exchange) write(status int, body []byte) *problem {
	if len(body) > chunkedFrom {
		x.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	x.WriteHeader(status)
	_, _ = x.Write(body)
	return nil
}

// serve runs a route's handler between the measurements.
func (a *API) serve(rt *route, w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	x := &exchange{ResponseWriter: w, route: rt}
	rt.inFlight.Inc()
	defer a.finish(x, r, start)
	if rt.cors {
		a.cors.headers(x.Header(), r)
	}
	if r.ContentLength != 0 {
		x.limitBodyTime(a.cfg.BodyTimeout)
	}
	if p := rt.handle(x, r); p != nil {
		a.fail(x, r, p)
	}
}

// finish counts and logs a request, also one that has panicked.
func (a *API) finish(x *exchange, r *http.Request, start time.Time) {
	panicked := recover()
	if panicked != nil && panicked != http.ErrAbortHandler {
		a.logger.LogAttrs(r.Context(), slog.LevelError, "panic while serving a request",
			slog.String("route", x.route.path), slog.String("method", r.Method),
			slog.Any("err", panicked), slog.String("stack", string(debug.Stack())))
		if x.status == 0 {
			p := &problem{kind: internalError, detail: internalDetail}
			x.Header().Set("Connection", "close")
			x.problem(p)
			panicked = nil
		} else {
			// Half an answer must not look like a whole one.
			panicked = http.ErrAbortHandler
		}
	}
	if x.reserved > 0 {
		a.bodies.put(x.credential, x.reserved)
	}
	elapsed := time.Since(start)
	x.route.inFlight.Dec()
	if x.route.seconds != nil {
		x.route.seconds.Observe(elapsed.Seconds())
	}
	a.count(x, r)
	if a.logger.Enabled(r.Context(), slog.LevelDebug) {
		a.logger.LogAttrs(r.Context(), slog.LevelDebug, "request served",
			slog.String("route", x.route.path), slog.String("method", r.Method), slog.Int("status", x.status),
			slog.Float64("elapsed_seconds", elapsed.Seconds()), slog.String("publisher", x.publisher), slog.String("remote", r.RemoteAddr))
	}
	if panicked != nil {
		panic(panicked)
	}
}

func (a *API) count(x *exchange, r *http.Request) {
	switch {
	case x.gone:
		a.metrics.requests.WithLabelValues(x.route.path, knownMethod(r.Method), "499").Inc()
	case x.status == x.route.success && r.Method == x.route.method:
		x.route.succeeded.Inc()
	default:
		status := x.status
		if status == 0 {
			status = http.StatusOK // what net/http sends for a handler that wrote nothing
		}
		a.metrics.requests.WithLabelValues(x.route.path, knownMethod(r.Method), strconv.Itoa(status)).Inc()
	}
}

// knownMethod bounds the label: a method is any word a client likes.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	}
	return "other"
}

// fail answers with a problem and logs its cause.
func (a *API) fail(x *exchange, r *http.Request, p *problem) {
	// A client that hung up while its message was being written has no use for
	// an answer and is no failure of this server. (On a server that is being
	// stopped hard, contexts end too, and then the answer still arrives.)
	x.gone = p.status >= 500 && r.Context().Err() == context.Canceled
	switch {
	case x.gone:
		a.logger.LogAttrs(r.Context(), slog.LevelDebug, "client hung up", slog.String("route", x.route.path), slog.Any("err", p.cause))
	case p.status >= 500:
		a.logFailure(x, p)
	case p.status == http.StatusUnauthorized, p.status == http.StatusForbidden, x.route.upgrade:
		a.logDenied(x, r, p)
	}
	if x.status == 0 {
		x.problem(p)
	}
}

// problem writes a problem document.
func (x *exchange) problem(p *problem) {
	p.headers(x.Header())
	x.write(p.status, append(p.append(nil), "}\n"...))
}

func (a *API) logFailure(x *exchange, p *problem) {
	if more, ok := a.failed.allow(); ok {
		level := slog.LevelWarn
		if p.status == http.StatusInternalServerError {
			level = slog.LevelError
		}
		a.logger.LogAttrs(context.Background(), level, "request failed",
			slog.String("route", x.route.path), slog.Int("status", p.status), slog.String("problem", p.name),
			slog.Any("err", p.cause), slog.String("publisher", x.publisher), slog.Int64("unlogged_before", more))
	}
}

func (a *API) logDenied(x *exchange, r *http.Request, p *problem) {
	if more, ok := a.denied.allow(); ok {
		attrs := []slog.Attr{slog.String("route", x.route.path), slog.Int("status", p.status), slog.String("problem", p.name),
			slog.String("publisher", x.publisher), slog.String("remote", r.RemoteAddr), slog.Int64("unlogged_before", more)}
		if p.cause != nil {
			attrs = append(attrs, slog.Any("err", p.cause))
		} else {
			attrs = append(attrs, slog.String("reason", p.detail))
		}
		a.logger.LogAttrs(context.Background(), slog.LevelInfo, "request denied", attrs...)
	}
}

// Log lines per second that one class of failure may write, and how many at
// once: a database that is away fails ten thousand requests a second, all alike.
const (
	logRate  = 5
	logBurst = 20
)

// quiet is a log's rate limit that tells how much it kept back.
type quiet struct {
	limit *rate.Limiter
	kept  *atomic.Int64
}

func newQuiet() quiet {
	return quiet{limit: rate.NewLimiter(logRate, logBurst), kept: new(atomic.Int64)}
}

// allow reports whether to log now, and how many lines were kept back before.
func (q quiet) allow() (kept int64, ok bool) {
	if !q.limit.Allow() {
		q.kept.Add(1)
		return 0, false
	}
	return q.kept.Swap(0), true
}
