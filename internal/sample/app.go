package sample

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"restante/internal/identity"
)

// Limits of the sample application.
const (
	MaxWait    = 15 * time.Minute // longest task
	MaxMessage = 64 << 10         // bytes of the result as JSON: the gateway's own default limit
	MaxTasks   = 1000             // tasks at once, unless Config.MaxTasks says otherwise

	defaultGrace       = 10 * time.Second
	defaultGiveUpAfter = 15 * time.Minute
)

// Users tells whose ID token it is. The error is identity.ErrRejected when the
// token is not good, identity.ErrUnavailable when that could not be found out.
type Users interface {
	User(ctx context.Context, idToken string) (identity.User, error)
}

// Config is everything an App needs. GatewayURL, APIKey and Users are required.
type Config struct {
	GatewayURL string // where results are posted, for example http://127.0.0.1:8080
	APIKey     string // the publisher's key, with the scope "publish"
	Users      Users

	Page           Page     // what the demonstration page is told; see Page
	AllowedOrigins []string // other web origins whose pages may start tasks; "*" for all

	MaxTasks    int           // 0: the constant MaxTasks
	Grace       time.Duration // how long tasks may go on after stop; 0: 10 s, negative: not at all
	GiveUpAfter time.Duration // how long a result is offered to a gateway that does not take it; 0: 15 min

	Transport http.RoundTripper // nil: a transport of the App's own
	Log       *slog.Logger      // nil: slog.Default()
}

// App is the sample application. Create it with New; it accepts tasks while
// Run is running.
type App struct {
	cfg     Config
	log     *slog.Logger
	gateway *gateway
	handler http.Handler

	// Handlers hand tasks to Run over admit; Run closes stopped when it takes
	// no more. The set of tasks itself is a local variable of Run: nobody else
	// can touch it.
	admit   chan admission
	stopped chan struct{}
	runOnce sync.Once
}

// New checks cfg and builds the application. It starts nothing.
func New(cfg Config) (*App, error) {
	var problems []error
	if _, err := httpURL(cfg.GatewayURL); err != nil {
		problems = append(problems, fmt.Errorf("gateway URL: %w", err))
	}
	if cfg.APIKey == "" {
		problems = append(problems, errors.New("an API key is needed to post results to the gateway"))
	} else if strings.ContainsFunc(cfg.APIKey, func(r rune) bool { return r <= ' ' || r > '~' }) {
		problems = append(problems, errors.New("the API key contains white space or characters that cannot be in a header"))
	}
	if cfg.Users == nil {
		problems = append(problems, errors.New("a verifier of ID tokens is needed"))
	}
	if cfg.MaxTasks < 0 || cfg.GiveUpAfter < 0 {
		problems = append(problems, errors.New("limits must not be negative"))
	}
	if err := cfg.Page.check(); err != nil {
		problems = append(problems, err)
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("sample application: %w", errors.Join(problems...))
	}
	if cfg.MaxTasks == 0 {
		cfg.MaxTasks = MaxTasks
	}
	if cfg.Grace == 0 {
		cfg.Grace = defaultGrace
	}
	if cfg.GiveUpAfter == 0 {
		cfg.GiveUpAfter = defaultGiveUpAfter
	}
	if cfg.Transport == nil {
		own := http.DefaultTransport.(*http.Transport).Clone()
		// Many results may fall due together; two idle connections (the
		// default) would mean a new connection for almost every one of them.
		own.MaxIdleConnsPerHost = 32
		cfg.Transport = own
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	a := &App{
		cfg:     cfg,
		log:     cfg.Log,
		admit:   make(chan admission),
		stopped: make(chan struct{}),
		gateway: newGateway(cfg),
	}
	page, err := servePage(cfg.Page)
	if err != nil {
		return nil, fmt.Errorf("sample application: %w", err)
	}
	a.handler = a.routes(page)
	return a, nil
}

// Handler serves the task API, the page and /livez.
func (a *App) Handler() http.Handler { return a.handler }

func (a *App) routes(page http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/process", crossOrigin(a.cfg.AllowedOrigins, http.HandlerFunc(a.process)))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("/", page)
	return mux
}

// httpURL parses an absolute http or https URL without a query.
func httpURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, fmt.Errorf("%q is not an http or https URL", s)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, fmt.Errorf("%q must not have a query, a fragment or a user", s)
	}
	return u, nil
}
