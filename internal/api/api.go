package api

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/events"
	"restante/internal/identity"
	"restante/internal/origins"
	"restante/internal/publishers"
	"restante/internal/tokens"
)

// Log is what the edge needs of the event log. See events.Log for the contract.
type Log interface {
	// Append writes messages as one transaction. The slice and the payloads
	// belong to the log from then on, even after ctx has ended.
	Append(ctx context.Context, messages []events.Message) ([]events.Receipt, error)
	Status(ctx context.Context, userID string, seq int64) (events.Status, error)
	Stream(ctx context.Context, userID string) (events.Stream, error)
}

// Tokens issues and redeems the single-use tokens that open a connection.
// Errors: tokens.ErrRejected, tokens.ErrUnavailable.
type Tokens interface {
	Issue(ctx context.Context, userID, username string) (token string, expires time.Time, err error)
	Redeem(ctx context.Context, token string) (tokens.Claims, error)
}

// Identity checks what an OIDC issuer has signed.
// Errors: identity.ErrRejected, identity.ErrUnavailable.
type Identity interface {
	User(ctx context.Context, idToken string) (identity.User, error)
	Publisher(ctx context.Context, accessToken string) (identity.Publisher, error)
	// Wanted says in words what an access token has to carry for a scope.
	Wanted(scope string) string
}

// Keys checks publishers' API keys.
// Errors: publishers.ErrRejected, publishers.ErrUnavailable.
type Keys interface {
	Authenticate(ctx context.Context, key string) (publishers.Publisher, error)
}

// Connector makes a request a user's connection. The request is a valid
// WebSocket upgrade, was admitted, and its token is used up. An error means that
// nothing has been written: ws.ErrOrigin, hub.ErrDraining,
// hub.ErrTooManySessions, events.ErrUnavailable. Otherwise the answer is the
// connector's.
type Connector interface {
	// Admits reports what keeps a request from being served, whoever sends it:
	// ws.ErrOrigin, hub.ErrDraining.
	Admits(r *http.Request) error
	Serve(w http.ResponseWriter, r *http.Request, userID string) error
}

// Readiness is what a replica says about itself. It is ready when it is not
// draining and no check has an error.
type Readiness struct {
	Draining bool
	Checks   []Check
}

// Check is one thing a replica needs.
type Check struct {
	Name string
	Err  error // nil when it is there
}

// Config is the edge's part of the configuration. Zero values mean the defaults.
type Config struct {
	// MaxMessageBytes is the longest message, as JSON. Default 64 KiB.
	MaxMessageBytes int
	// MaxMessageDepth is how many arrays and objects of a message may be inside each
	// other. Default 64.
	MaxMessageDepth int
	// MaxBodyBytes is the longest array of messages, and the most that one
	// message times its users may come to. Default 8 MiB.
	MaxBodyBytes int64
	// MaxTTL is the longest time a message may stay undelivered, and the time
	// it gets without a ttl of its own. Default 30 days; whole seconds.
	MaxTTL time.Duration
	// PublisherRate and PublisherBytes are how many messages, and bytes of messages,
	// a credential without rates of its own may post a second. Default no limit.
	PublisherRate, PublisherBytes int64
	// UserTokens and UserConnects are how many tokens a user gets, and connections it
	// opens, a second on this replica. Default no limit.
	UserTokens, UserConnects int
	// BodyTimeout is how long the body of a request may take. Default 10 s.
	BodyTimeout time.Duration
	// Origins are those whose pages may ask for tokens and read status. Default none.
	Origins origins.Set
}

// Deps is what the edge works with. All are required but Logger, which is
// slog.Default() then.
type Deps struct {
	Log       Log
	Tokens    Tokens
	Identity  Identity
	Keys      Keys
	Connector Connector
	// Ready is asked by every /readyz; it has to answer within its context.
	Ready func(ctx context.Context) Readiness
	// Metrics receives the edge's metrics, Gatherer is what /metrics shows.
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer
	Logger   *slog.Logger
}

// API is the HTTP edge of one replica. It runs no goroutine of its own.
type API struct {
	cfg       Config
	log       Log
	tokens    Tokens
	identity  Identity
	keys      Keys
	connector Connector
	ready     func(ctx context.Context) Readiness
	gatherer  prometheus.Gatherer
	logger    *slog.Logger
	metrics   metrics
	cors      cors
	shapes    shapes
	buffers   buffers
	readers   readers
	issues    *userRate
	connects  *userRate
	rates     *rates
	bodies    *shares // of the memory for bodies, in bytes
	looks     *shares // of the connections that look up statuses
	decoders  *shares // of the processors for long bodies
	denied    quiet   // 401, 403 and refused connections
	failed    quiet   // 5xx
}

// New makes an API. Handlers come from Handler and Admin.
func New(cfg Config, deps Deps) *API {
	if cfg.MaxMessageBytes <= 0 {
		cfg.MaxMessageBytes = 64 << 10
	}
	if cfg.MaxMessageDepth <= 0 {
		cfg.MaxMessageDepth = 64
	}
	if cfg.MaxBodyBytes <= 0 {
		cfg.MaxBodyBytes = 8 << 20
	}
	if cfg.MaxTTL <= 0 {
		cfg.MaxTTL = 30 * 24 * time.Hour
	}
	if cfg.BodyTimeout <= 0 {
		cfg.BodyTimeout = 10 * time.Second
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	return &API{
		cfg:       cfg,
		log:       deps.Log,
		tokens:    deps.Tokens,
		identity:  deps.Identity,
		keys:      deps.Keys,
		connector: deps.Connector,
		ready:     deps.Ready,
		gatherer:  deps.Gatherer,
		logger:    deps.Logger,
		metrics:   newMetrics(deps.Metrics),
		cors:      cors{cfg.Origins},
		shapes:    newShapes(),
		issues:    newUserRate(cfg.UserTokens, "tokens a second"),
		connects:  newUserRate(cfg.UserConnects, "connects a second"),
		rates:     newRates(cfg.PublisherRate, cfg.PublisherBytes),
		bodies:    newShares(bodyMemory, 3),
		looks:     newShares(looksAtOnce, 3),
		decoders:  newShares(max(1, int64(runtime.GOMAXPROCS(0))-1), 0),
		denied:    newQuiet(),
		failed:    newQuiet(),
	}
}
