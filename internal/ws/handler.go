package ws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/hub"
	"restante/internal/origins"
)

// Subprotocols that a client may offer.
const (
	// Protocol is the one with acknowledgements.
	Protocol = "restante.v1"
	// TokenProtocol begins the item that carries a token: the one place, beside the
	// URL, where a browser's WebSocket can put it.
	TokenProtocol = "restante.token."
)

// Metric labels of the two modes.
const (
	plainLabel = "websocket"
	v1Label    = "websocket.v1"
)

const (
	readLimit    = 4 << 10          // bytes of a client's frame
	writeTimeout = 30 * time.Second // the default
	maxUnwritten = 64 << 20         // the default
	maxPooled    = 64 << 10         // larger buffers are left to the garbage collector
)

// Config of a Handler.
type Config struct {
	// Origins are those whose pages may connect. Clients that send no origin, or that
	// of the gateway itself, always may.
	Origins origins.Set
	// WriteTimeout is how long a client whose connection is full may take in nothing
	// and confirm nothing before its session ends. 0 stands for 30 s.
	WriteTimeout time.Duration
	// MaxUnwritten bounds the bytes that are kept for all full connections together;
	// beyond it those end whose clients have read nothing for longest. 0 stands for
	// 64 MiB.
	MaxUnwritten int
	Logger       *slog.Logger
	Metrics      prometheus.Registerer // nil: none
}

// Handler upgrades requests to sessions.
type Handler struct {
	hub     *hub.Hub
	cfg     Config
	buffers sync.Pool // of *outgoing
	backlog backlog
	open    sync.WaitGroup // readers, closers, and writers of what full connections keep
}

// New makes a Handler for a hub's sessions.
func New(h *hub.Hub, cfg Config) *Handler {
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, writeTimeout)
	handler := &Handler{
		hub: h, cfg: cfg, backlog: backlog{limit: cmp.Or(cfg.MaxUnwritten, maxUnwritten)},
		buffers: sync.Pool{New: func() any { return new(outgoing) }},
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Name: "restante_unwritten_bytes", Help: "Bytes that are kept for client connections that are full; at most -unwritten-bytes."},
			func() float64 { return float64(handler.backlog.held()) },
		))
	}
	return handler
}

// ErrOrigin: a page of this origin may not connect.
var ErrOrigin = errors.New("origin is not allowed")

// Admits reports what keeps a request from being served whoever sends it:
// ErrOrigin, hub.ErrDraining. Serve asks it too; it is for a caller that has
// something to lose in between.
func (h *Handler) Admits(r *http.Request) error {
	if origin := r.Header.Get("Origin"); origin != "" && !h.cfg.Origins.Allows(origin, r.Host) {
		return fmt.Errorf("%w: %.100q", ErrOrigin, origin)
	}
	if h.hub.Draining() {
		return hub.ErrDraining
	}
	return nil
}

// Serve makes the request a session of a user and returns; the session lives on.
// The caller has authenticated the user. An error means that nothing has been
// written: hub.ErrDraining, hub.ErrTooManySessions, events.ErrUnavailable,
// ErrOrigin.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, userID string) error {
	if err := h.Admits(r); err != nil {
		return err
	}
	label, protocols := plainLabel, chosenProtocols(r)
	if slices.Contains(protocols, Protocol) {
		label = v1Label
	}
	session, err := h.hub.Open(r.Context(), userID, label)
	if err != nil {
		return err
	}
	t := &transport{handler: h, session: session, v1: label == v1Label, epoch: r.URL.Query().Get("epoch")}
	hijack := &hijacker{ResponseWriter: w, timeout: h.cfg.WriteTimeout}
	t.ws, err = websocket.Accept(hijack, r, &websocket.AcceptOptions{
		Subprotocols:       protocols,
		InsecureSkipVerify: true, // the origin was checked above
		CompressionMode:    websocket.CompressionDisabled,
		OnPingReceived:     t.ping,
		OnPongReceived:     t.pong,
	})
	if err != nil {
		// Accept has answered the request.
		session.End(hub.Violation(hub.CodePolicy, "bad handshake"))
		h.cfg.Logger.Info("websocket handshake failed", "session", session.ID(), "err", err)
		return nil
	}
	t.ws.SetReadLimit(readLimit)
	t.conn, hijack.conn.transport = hijack.conn, t
	h.open.Go(t.run)
	return nil
}

// Wait returns when every connection is closed, or ctx ends. Call it after the
// hub has drained.
func (h *Handler) Wait(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		h.open.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for connections to close: %w", context.Cause(ctx))
	}
}

func (h *Handler) outgoing() *outgoing { return h.buffers.Get().(*outgoing) }

func (h *Handler) release(o *outgoing) {
	if cap(o.frames) <= maxPooled {
		o.frames, o.units = o.frames[:0], o.units[:0]
		h.buffers.Put(o)
	}
}
