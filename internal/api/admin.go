package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admin serves what only the operator may see: it belongs on a listener of its
// own, on loopback by default, for it has no authentication. It is not counted
// in the edge's metrics.
func (a *API) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", livez)
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.gatherer, promhttp.HandlerOpts{
		// One broken collector must not hide all others.
		ErrorHandling: promhttp.ContinueOnError,
	}))
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// Starting serves the admin listener until there is an API: the process lives, and
// whatever else is asked, it is not ready.
func Starting() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", livez)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeReadiness(w, Readiness{Checks: []Check{{Name: "start", Err: errStarting}}})
	})
	return mux
}

var errStarting = errors.New("the replica is starting; its log says what it waits for")

// Full answers a request on a connection that is one too many.
func Full(w http.ResponseWriter) {
	x := &exchange{ResponseWriter: w}
	x.limitBodyTime(5 * time.Second)
	x.problem(&problem{kind: replicaFull,
		detail: "Nothing was done. Connect again after the time in Retry-After; a token is not used up. If it lasts, the operator needs more replicas, or a higher -max-connections."})
}

// livez says that the process answers. It looks at nothing else: a replica that
// cannot reach Postgres would only lose its sockets by a restart.
func livez(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n"))
}

// readyz says whether new connections and messages should come here.
func (a *API) readyz(w http.ResponseWriter, r *http.Request) {
	writeReadiness(w, a.ready(r.Context()))
}

func writeReadiness(w http.ResponseWriter, now Readiness) {
	type check struct {
		Name  string `json:"name"`
		OK    bool   `json:"ok"`
		Error string `json:"error,omitempty"`
	}
	answer := struct {
		Ready    bool    `json:"ready"`
		Draining bool    `json:"draining"`
		Checks   []check `json:"checks"`
	}{Ready: !now.Draining, Draining: now.Draining, Checks: []check{}}
	for _, c := range now.Checks {
		shown := check{Name: c.Name, OK: c.Err == nil}
		if c.Err != nil {
			shown.Error = c.Err.Error()
			answer.Ready = false
		}
		answer.Checks = append(answer.Checks, shown)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer)
}
