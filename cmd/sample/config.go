package main

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"restante/internal/identity"
	"restante/internal/sample"
)

// config is the process's configuration: each flag, and for each an environment
// variable RESTANTE_NAME; the flag wins.
type config struct {
	listen     string
	gatewayURL string
	publicURL  string
	apiKey     string
	apiKeyFile string
	issuer     string
	audience   string
	userClaim  string
	clientID   string
	scope      string
	origins    string
	connectTo  string
	maxTasks   int
	grace      time.Duration
	giveUp     time.Duration
	logLevel   slog.Level
	version    bool
}

const intro = `Sample is the sample application: POST /process starts a task, which works for a
while and then posts its result to the gateway, for the user who asked. It also
serves a page that shows the whole way in a browser.

With a gateway and issuer from "make run", on another port than theirs:

  sample -listen 127.0.0.1:8083 -api-key-file ~/.local/state/restante/api-key

  curl -X POST 127.0.0.1:8083/process -H "Authorization: $ID_TOKEN" \
    -H 'Content-Type: application/json' -d '{"message": "done", "wait": 20}'

On SIGTERM it takes no more tasks, finishes those that are due within -grace, and
reports each of the others in its log as lost: tasks are kept in memory only.

Each flag has an environment variable: -gateway-url is RESTANTE_GATEWAY_URL.

`

func readConfig(args []string, getenv func(string) string, stdout io.Writer) (config, error) {
	var cfg config
	fs := flag.NewFlagSet("sample", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // run says what went wrong, once
	fs.StringVar(&cfg.listen, "listen", "127.0.0.1:8082", "`address` to listen on")
	fs.StringVar(&cfg.gatewayURL, "gateway-url", "http://127.0.0.1:8080", "`URL` of the gateway, for posting results")
	fs.StringVar(&cfg.publicURL, "public-gateway-url", "", "`URL` of the gateway as browsers reach it (default -gateway-url)")
	fs.StringVar(&cfg.apiKey, "api-key", "", "API `key` of the gateway with the scope publish; better in the environment or a file, where ps does not show it")
	fs.StringVar(&cfg.apiKeyFile, "api-key-file", "", "`file` with the API key, instead of -api-key")
	fs.StringVar(&cfg.issuer, "oidc-issuer", "http://127.0.0.1:8081", "`URL` of the issuer of the users' ID tokens")
	fs.StringVar(&cfg.audience, "oidc-audience", "restante", "`audiences` of which ID tokens must have one, with commas: client ids of applications")
	fs.StringVar(&cfg.userClaim, "oidc-user-claim", "sub", "`claim` of ID tokens that is the user id; as the gateway's own flag says")
	fs.StringVar(&cfg.clientID, "oidc-client-id", "", "OIDC client `id` of the page (default the first of -oidc-audience)")
	fs.StringVar(&cfg.scope, "oidc-scope", "openid profile email", "OIDC `scope` the page asks for")
	fs.StringVar(&cfg.origins, "allowed-origins", "", "other web `origins` whose pages may start tasks, with commas")
	fs.StringVar(&cfg.connectTo, "page-connect-origins", "", "more `origins` the page may talk to, with commas: for issuers whose token endpoint is on another host")
	fs.IntVar(&cfg.maxTasks, "max-tasks", sample.MaxTasks, "`number` of tasks at once")
	fs.DurationVar(&cfg.grace, "grace", 10*time.Second, "how `long` tasks may go on after SIGTERM")
	fs.DurationVar(&cfg.giveUp, "give-up-after", 15*time.Minute, "how `long` a result is offered to a gateway that does not take it")
	fs.TextVar(&cfg.logLevel, "log-level", slog.LevelInfo, "`level` of the log: debug, info, warn or error")

	fs.BoolVar(&cfg.version, "version", false, "print the version and exit")

	if err := fs.Parse(args); err != nil {
		if err == flag.ErrHelp {
			fmt.Fprint(stdout, intro)
			fs.SetOutput(stdout)
			fs.PrintDefaults()
		}
		return config{}, err
	}
	if fs.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err := fromEnvironment(fs, getenv); err != nil {
		return config{}, err
	}
	if cfg.version {
		return cfg, nil
	}
	return cfg, cfg.complete()
}

// fromEnvironment sets each flag that was not given from its variable.
func fromEnvironment(fs *flag.FlagSet, getenv func(string) string) error {
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var failed error
	fs.VisitAll(func(f *flag.Flag) {
		name := "RESTANTE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value := getenv(name)
		if value == "" || given[f.Name] || failed != nil {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			failed = fmt.Errorf("%s: %w", name, err)
		}
	})
	return failed
}

// complete reads the key's file and fills in what follows from the rest.
func (cfg *config) complete() error {
	if cfg.maxTasks < 1 {
		return fmt.Errorf("-max-tasks must be at least 1")
	}
	if cfg.giveUp <= 0 {
		return fmt.Errorf("-give-up-after must be positive")
	}
	if cfg.grace <= 0 {
		cfg.grace = -1 // package sample takes 0 for its default
	}
	if cfg.apiKeyFile != "" {
		if cfg.apiKey != "" {
			return fmt.Errorf("give -api-key or -api-key-file, not both")
		}
		text, err := os.ReadFile(cfg.apiKeyFile)
		if err != nil {
			return fmt.Errorf("read API key: %w", err)
		}
		cfg.apiKey = strings.TrimSpace(string(text))
	}
	if cfg.apiKey == "" {
		return fmt.Errorf("an API key is missing: set RESTANTE_API_KEY or -api-key-file; make a key with: msg keys create -name sample")
	}
	cfg.publicURL = cmp.Or(cfg.publicURL, cfg.gatewayURL)
	if audiences := list(cfg.audience); len(audiences) > 0 {
		cfg.clientID = cmp.Or(cfg.clientID, audiences[0])
	}
	return nil
}

func newApp(cfg config, log *slog.Logger) (*sample.App, error) {
	ids := identity.Config{Issuer: cfg.issuer, Audiences: list(cfg.audience), UserClaim: cfg.userClaim}
	if err := ids.Validate(); err != nil {
		return nil, fmt.Errorf("OIDC: %w", err)
	}
	users := identity.New(ids, nil)
	return sample.New(sample.Config{
		GatewayURL: cfg.gatewayURL, APIKey: cfg.apiKey, Users: users,
		Page: sample.Page{
			Issuer: cfg.issuer, ClientID: cfg.clientID, Scope: cfg.scope,
			GatewayURL: cfg.publicURL, ConnectTo: list(cfg.connectTo),
		},
		AllowedOrigins: list(cfg.origins),
		MaxTasks:       cfg.maxTasks, Grace: cfg.grace, GiveUpAfter: cfg.giveUp,
		Log: log,
	})
}

func list(commas string) []string {
	var items []string
	for item := range strings.SplitSeq(commas, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
