package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"restante/internal/accept"
	"restante/internal/api"
)

// admin is the admin listener and its server, which shows what there is: until
// the replica is wired, that the process lives and is not ready.
type admin struct {
	listener net.Listener
	server   *http.Server
	shown    atomic.Pointer[http.Handler]
}

func newAdmin(listener net.Listener, logger *slog.Logger) *admin {
	limit := accept.New(adminConnections, 0)
	a := &admin{listener: limit.Listener(listener)}
	a.show(api.Starting())
	a.server = newServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		(*a.shown.Load()).ServeHTTP(w, r)
	}), 2*time.Minute, limit, logger)
	return a
}

func (a *admin) show(handler http.Handler) { a.shown.Store(&handler) }

func (a *admin) address() string { return a.listener.Addr().String() }

// serve serves until close.
func (a *admin) serve() error { return serveHTTP(a.server, a.listener) }

func (a *admin) close() {
	_ = a.server.Close() // probes and scrapes are not waited for
}

// newServer makes a server whose connections limit counts: the listener that it
// serves has to be the limit's.
func newServer(handler http.Handler, writeTimeout time.Duration, limit *accept.Limit, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ConnState:         limit.ConnState,
		ConnContext:       limit.ConnContext,
		ReadHeaderTimeout: 5 * time.Second,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    24 << 10, // an ID token may take 16 of it
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

func serveHTTP(server *http.Server, listener net.Listener) error {
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return nil
}
