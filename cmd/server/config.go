package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"restante/internal/identity"
	"restante/internal/origins"
)

// config is everything that can be set, in the order of -h.
type config struct {
	listen         string
	adminListen    string
	allowedOrigins string
	origins        origins.Set // what allowedOrigins says

	databaseURL     string
	databaseURLFile string
	waitForDB       bool
	durableMax      int
	relaxedMax      int
	jobsMax         int

	oidcIssuer        string
	oidcAudience      string
	oidcUserClaim     string
	oidcAlgorithms    string
	oidcDiscoveryURL  string
	oidcKeysURL       string
	publisherIssuer   string
	publisherAudience string
	publisherScope    string
	readerScope       string
	publisherClaim    string
	publisherSubjects string

	tokenKeyring string
	tokenKeys    string
	tokenTTL     time.Duration

	maxConnections int

	maxMessageBytes int
	maxMessageDepth int
	maxPending      int
	maxTTL          time.Duration
	retention       time.Duration
	keyRetention    time.Duration

	deliverDelay   time.Duration
	jobPoll        time.Duration
	sweep          time.Duration
	lease          time.Duration
	ackTimeout     time.Duration
	ping           time.Duration
	publisherRate  int64
	publisherBytes int64
	sessionMaxAge  time.Duration
	sessionsMax    int
	userTokens     int
	userConnects   int
	windowMessages int
	windowBytes    int
	unwrittenBytes int

	drainDelay   time.Duration
	drainSpread  time.Duration
	drainTimeout time.Duration

	logLevel slog.Level
	version  bool
	health   string

	dev devConfig
}

type devConfig struct {
	on           bool
	dir          string
	issuerListen string
	sampleListen string
}

const usage = `Restante: messages for users, delivered in order, kept until they connect.

  server -dev
        everything on this machine: a private PostgreSQL, the gateway, an OIDC
        issuer and the sample application; prints what to do next
  server -database-url postgres://… -oidc-issuer https://… -token-keyring keys.json
        one replica; migrate first: restante-migrate up (go run ./cmd/migrate up)

Every flag can be set in the environment too: RESTANTE_ and its name in capitals,
with underscores (RESTANTE_DELIVER_DELAY=5s); the flag wins.

`

// setting is one flag; the README's table is tested against this list.
type setting struct {
	name string
	env  string
}

// define declares the flags and returns them with their environment variables.
func (c *config) define(fs *flag.FlagSet) []setting {
	fs.StringVar(&c.listen, "listen", "127.0.0.1:8080", "`address` of the API and the connections")
	fs.StringVar(&c.adminListen, "admin-listen", "127.0.0.1:9090", "`address` of /livez, /readyz, /metrics and /debug/pprof; never public")
	fs.StringVar(&c.allowedOrigins, "allowed-origins", "", "`origins` whose pages may ask for tokens and connect, separated by commas: https://app.example.com, https://*.preview.example.com for one label; * for any")

	fs.IntVar(&c.maxConnections, "max-connections", 0, "connections of clients and publishers on this replica; 0: as many as its limit of open files leaves")

	fs.StringVar(&c.databaseURL, "database-url", "", "Postgres `URL` (environment: DATABASE_URL)")
	fs.StringVar(&c.databaseURLFile, "database-url-file", "", "`file` with that URL, for it carries a password (environment: DATABASE_URL_FILE)")
	fs.BoolVar(&c.waitForDB, "wait-for-db", false, "at start, wait for Postgres and for its schema instead of giving up")
	fs.IntVar(&c.durableMax, "db-durable-conns", 5, "connections for appends and reads")
	fs.IntVar(&c.relaxedMax, "db-relaxed-conns", 8, "connections for everything else")
	fs.IntVar(&c.jobsMax, "db-jobs-conns", 3, "connections for River and upkeep (three more are held outside the pools)")

	fs.StringVar(&c.oidcIssuer, "oidc-issuer", "", "`URL` of the issuer whose ID tokens users present")
	fs.StringVar(&c.oidcAudience, "oidc-audience", "restante", "`audience` (client id) of those tokens; several separated by commas")
	fs.StringVar(&c.oidcUserClaim, "oidc-user-claim", "sub", "`claim` that is the user id")
	fs.StringVar(&c.oidcAlgorithms, "oidc-algorithms", "", "signature `algorithms` to accept of those that the issuer announces, separated by commas; empty: all but none and HMAC")
	fs.StringVar(&c.oidcDiscoveryURL, "oidc-discovery-url", "", "`URL` of the issuer's discovery document, if it is not below -oidc-issuer as seen from here")
	fs.StringVar(&c.oidcKeysURL, "oidc-jwks-url", "", "`URL` of the issuer's keys, if the discovery document names one that cannot be reached from here")
	fs.Int64Var(&c.publisherRate, "publisher-rate", 50_000, "messages a second that an API key without a rate of its own (msg keys create -rate), or an OIDC client, may post to this replica; 0 for no limit")
	fs.Int64Var(&c.publisherBytes, "publisher-bytes", 100_000_000, "bytes of messages a second that it may post (msg keys create -byte-rate); 0 for no limit")
	fs.StringVar(&c.publisherIssuer, "publisher-issuer", "", "`URL` of the issuer of publishers' access tokens; empty: the users' issuer")
	fs.StringVar(&c.publisherAudience, "publisher-audience", "", "`audience` of those access tokens, several separated by commas; empty: publishers use API keys only")
	fs.StringVar(&c.publisherScope, "publisher-scope", "restante:publish", "`scope` that lets an access token publish")
	fs.StringVar(&c.publisherClaim, "publisher-claim", "scope,scp", "`claims` of access tokens that list these scopes, separated by commas: roles, permissions, realm_access.roles")
	fs.StringVar(&c.publisherSubjects, "publisher-subjects", "", "`subjects` whose access tokens may publish whatever scopes they carry, separated by commas (Kubernetes: system:serviceaccount:NAMESPACE:NAME)")
	fs.StringVar(&c.readerScope, "reader-scope", "restante:read", "`scope` that lets an access token ask for the state of messages and users")

	fs.StringVar(&c.tokenKeyring, "token-keyring", "", "`file` with the keys of the single-use tokens (msg keyring new); read again when it changes")
	fs.StringVar(&c.tokenKeys, "token-keys", "", "the keys themselves, as `JSON`; better in the environment than on the command line")
	fs.DurationVar(&c.tokenTTL, "token-ttl", 30*time.Second, "how long a token may be used")

	fs.IntVar(&c.maxMessageBytes, "max-message-bytes", 64<<10, "longest message, as JSON")
	fs.IntVar(&c.maxPending, "max-pending-per-user", 100_000, "messages of one user that may wait to be acknowledged; 0 for any number")
	fs.IntVar(&c.maxMessageDepth, "max-message-depth", 64, "how many arrays and objects of a message may be inside each other")
	fs.DurationVar(&c.maxTTL, "max-ttl", 30*24*time.Hour, "longest time a message may wait to be delivered, and what it gets without a ttl")
	fs.DurationVar(&c.retention, "retention", 24*time.Hour, "how long delivered messages stay readable")
	fs.DurationVar(&c.keyRetention, "idempotency-retention", 24*time.Hour, "how long idempotency keys are remembered at least, also when their messages have expired or are past the retention")

	fs.DurationVar(&c.deliverDelay, "deliver-delay", 10*time.Second, "how long after an append its delivery job looks; 0 delivers by jobs alone if need be")
	fs.DurationVar(&c.jobPoll, "job-poll", 500*time.Millisecond, "how often due jobs are looked for")
	fs.DurationVar(&c.sweep, "sweep", 10*time.Second, "how often all sessions are compared with the log, and users with something pending five times as often; 0 turns it off")
	fs.DurationVar(&c.lease, "lease", 12*time.Second, "how long a silent replica is taken for alive")
	fs.DurationVar(&c.ackTimeout, "ack-timeout", 30*time.Second, "how long a client may acknowledge nothing of what it was sent, and read nothing of what it is being sent")
	fs.DurationVar(&c.ping, "ping", 30*time.Second, "how long a connection may be silent before it is pinged")
	fs.DurationVar(&c.sessionMaxAge, "session-max-age", time.Hour, "when a connection is asked to reconnect, give or take a tenth")
	fs.IntVar(&c.userTokens, "tokens-per-user", 20, "tokens a second for one user on this replica, and twenty times as many at once; 0: no limit")
	fs.IntVar(&c.userConnects, "connects-per-user", 20, "connects a second of one user on this replica, and twenty times as many at once; 0: no limit")
	fs.IntVar(&c.sessionsMax, "sessions-per-user", 32, "connections of one user on this replica")
	fs.IntVar(&c.windowMessages, "window-messages", 1024, "unacknowledged messages per connection")
	fs.IntVar(&c.windowBytes, "window-bytes", 1<<20, "unacknowledged bytes per connection")
	fs.IntVar(&c.unwrittenBytes, "unwritten-bytes", 64<<20, "bytes kept for all connections that are full; beyond it, those whose clients have read nothing for longest are ended")

	fs.DurationVar(&c.drainDelay, "drain-delay", 2*time.Second, "on SIGTERM, how long to go on after /readyz turns 503, so that the load balancer notices; with -dev 0")
	fs.DurationVar(&c.drainSpread, "drain-spread", 5*time.Second, "clients are told to reconnect at a random moment within this time")
	fs.DurationVar(&c.drainTimeout, "drain-timeout", 15*time.Second, "how long requests and connections may take to finish")

	fs.TextVar(&c.logLevel, "log-level", slog.LevelInfo, "DEBUG, INFO, WARN or ERROR `level`")
	fs.BoolVar(&c.version, "version", false, "print the version and exit")
	fs.StringVar(&c.health, "health", "", "ask this `URL` and exit: 0 when it answers 200, else 1; the health check of a container (http://127.0.0.1:9090/readyz)")

	fs.BoolVar(&c.dev.on, "dev", false, "development: start everything on this machine (never for production: well-known passwords, plain HTTP)")
	fs.StringVar(&c.dev.dir, "dev-dir", "", "where -dev keeps its state; a `directory`, chosen for you if empty")
	fs.StringVar(&c.dev.issuerListen, "dev-issuer-listen", "127.0.0.1:8081", "`address` of the development issuer")
	fs.StringVar(&c.dev.sampleListen, "dev-sample-listen", "127.0.0.1:8082", "`address` of the sample application and its page")

	var settings []setting
	fs.VisitAll(func(f *flag.Flag) {
		env := "RESTANTE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		switch f.Name {
		case "database-url":
			env = "DATABASE_URL"
		case "database-url-file":
			env = "DATABASE_URL_FILE"
		case "version", "health":
			env = ""
		}
		settings = append(settings, setting{f.Name, env})
	})
	return settings
}

// parseConfig reads flags and environment, and checks all of it before anything
// is started. Help that was asked for goes to help.
func parseConfig(args []string, getenv func(string) string, help io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("server", flag.ContinueOnError)
	settings := c.define(fs)
	fs.SetOutput(io.Discard) // errors are returned; help is printed below
	for _, s := range settings {
		if value := getenv(s.env); s.env != "" && value != "" {
			if err := fs.Set(s.name, value); err != nil {
				return c, fmt.Errorf("environment variable %s: %w", s.env, err)
			}
		}
	}
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(help, usage)
			fs.SetOutput(help)
			fs.PrintDefaults()
		}
		return c, err
	}
	if c.dev.on && !isSet(fs, "drain-delay") {
		c.drainDelay = 0 // there is no load balancer, and somebody waits after Ctrl-C
	}
	if fs.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if err := c.readFiles(); err != nil {
		return c, err
	}
	return c, c.validate()
}

// isSet reports whether a flag was given, on the command line or in the environment.
func isSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// readFiles reads what was given as the name of a file.
func (c *config) readFiles() error {
	if c.databaseURLFile == "" || c.health != "" {
		return nil
	}
	if c.databaseURL != "" {
		return errors.New("both -database-url and -database-url-file are set: choose one")
	}
	text, err := os.ReadFile(c.databaseURLFile)
	if err != nil {
		return fmt.Errorf("read the database URL: %w", err)
	}
	c.databaseURL = strings.TrimSpace(string(text))
	return nil
}

func (c *config) validate() error {
	var problems []error
	need := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	if c.health != "" {
		return nil // nothing else of it is used
	}
	if !c.dev.on && !c.version {
		need(c.databaseURL != "", "no database: set -database-url or DATABASE_URL (or -database-url-file), or try -dev")
		need(c.oidcIssuer != "", "no issuer of users' ID tokens: set -oidc-issuer, or try -dev")
		need(c.tokenKeyring != "" || c.tokenKeys != "", "no keys for the tokens: set -token-keyring (make a file with: msg keyring new -file keys.json) or RESTANTE_TOKEN_KEYS")
	}
	if err := c.allow(); err != nil {
		problems = append(problems, err)
	}
	if c.oidcIssuer != "" {
		if err := c.identity().Validate(); err != nil {
			problems = append(problems, fmt.Errorf("OIDC: %w", err))
		}
	}
	need(c.tokenKeyring == "" || c.tokenKeys == "", "both -token-keyring and -token-keys are set: choose one")
	for _, d := range []struct {
		name  string
		value time.Duration
		least time.Duration
	}{
		{"token-ttl", c.tokenTTL, time.Second}, {"max-ttl", c.maxTTL, time.Second}, {"retention", c.retention, 0}, {"idempotency-retention", c.keyRetention, 0},
		{"deliver-delay", c.deliverDelay, 0}, {"job-poll", c.jobPoll, time.Millisecond}, {"sweep", c.sweep, 0},
		{"lease", c.lease, time.Second}, {"ack-timeout", c.ackTimeout, time.Second}, {"ping", c.ping, time.Second},
		{"session-max-age", c.sessionMaxAge, time.Second}, {"drain-delay", c.drainDelay, 0},
		{"drain-spread", c.drainSpread, 0}, {"drain-timeout", c.drainTimeout, time.Second},
	} {
		need(d.value >= d.least, "-%s is %v; the least is %v", d.name, d.value, d.least)
	}
	for _, n := range []struct {
		name  string
		value int
		least int
	}{
		{"db-durable-conns", c.durableMax, 2}, {"db-relaxed-conns", c.relaxedMax, 4}, {"db-jobs-conns", c.jobsMax, 2}, {"max-message-bytes", c.maxMessageBytes, 1},
		{"max-connections", c.maxConnections, 0},
		{"max-message-depth", c.maxMessageDepth, 1}, {"max-pending-per-user", c.maxPending, 0},
		{"sessions-per-user", c.sessionsMax, 1}, {"tokens-per-user", c.userTokens, 0}, {"connects-per-user", c.userConnects, 0}, {"window-messages", c.windowMessages, 1}, {"window-bytes", c.windowBytes, 1},
		{"unwritten-bytes", c.unwrittenBytes, 1 << 20},
	} {
		need(n.value >= n.least, "-%s is %d; the least is %d", n.name, n.value, n.least)
	}
	need(c.publisherRate >= 0, "-publisher-rate is %d; 0 is no limit", c.publisherRate)
	need(c.publisherBytes >= 0, "-publisher-bytes is %d; 0 is no limit", c.publisherBytes)
	return errors.Join(problems...)
}

// allow reads which origins are allowed: those of the flag and more.
func (c *config) allow(more ...string) (err error) {
	if c.origins, err = origins.Parse(append(splitList(c.allowedOrigins), more...)); err != nil {
		return fmt.Errorf("-allowed-origins: %w", err)
	}
	return nil
}

// identity is the part that says whose tokens are accepted.
func (c *config) identity() identity.Config {
	return identity.Config{
		Issuer: c.oidcIssuer, Audiences: splitList(c.oidcAudience), UserClaim: c.oidcUserClaim,
		PublisherIssuer: c.publisherIssuer, PublisherAudiences: splitList(c.publisherAudience),
		PublisherScope: c.publisherScope, ReaderScope: c.readerScope,
		Algorithms: splitList(c.oidcAlgorithms), DiscoveryURL: c.oidcDiscoveryURL, KeysURL: c.oidcKeysURL,
		PublisherClaims: splitList(c.publisherClaim), PublisherSubjects: splitList(c.publisherSubjects),
	}
}

func splitList(list string) []string {
	var items []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}
