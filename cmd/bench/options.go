package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// options are the flags of all modes. Every number has a bound: a load
// generator with a typing error must not run for a week.
type options struct {
	mode   string
	target string

	publishers  int
	users       int
	size        int
	rate        int
	connections int
	connected   int
	backlog     int
	group       int
	past        int
	streams     int
	jobs        int
	troubles    string
	strangers   int
	expired     int
	silent      int
	bodies      int
	duration    time.Duration
	warmup      time.Duration
	settle      time.Duration
	every       time.Duration

	replicas    int
	cores       int
	cross       bool
	server      string
	floorServer string
	flags       string
	dir         string
	urls        string
	database    string
	keyFile     string
	issuer      string
	pids        string
	admins      string

	json     string
	progress bool
}

// mode is one kind of run.
type mode struct {
	name     string
	summary  string
	example  string
	defaults func(*options)     // changes the defaults of flags; nil for none
	run      func(*bench) error // nil for those that are not load runs
	own      bool               // only with servers that bench itself has started
}

// commonDefaults are the values of flags that a mode leaves alone.
func commonDefaults(m mode) options {
	o := options{
		mode: m.name, target: "restante", publishers: 64, users: 200, size: 256, rate: 500, connections: 5000,
		backlog: 1000, group: 100, streams: 1_000_000, jobs: 100_000, replicas: 1,
		strangers: 300_000, expired: 5_000_000, silent: 200, bodies: 1000,
		duration: 10 * time.Second, warmup: 2 * time.Second, settle: 5 * time.Second, every: 5 * time.Second, progress: true,
	}
	if m.defaults != nil {
		m.defaults(&o)
	}
	return o
}

// Bounds of what a run leaves pending in all, and of the users that are
// connected: each takes a descriptor here and one in its server.
const (
	maxBacklog   = 5_000_000
	maxConnected = 50_000
)

var errHelp = errors.New("help was asked for")

func parseOptions(m mode, args []string, out io.Writer) (options, error) {
	o := commonDefaults(m)
	flags := flag.NewFlagSet("bench "+m.name, flag.ContinueOnError)
	flags.SetOutput(out)
	flags.Usage = func() {
		fmt.Fprintf(out, "%s\n\n  %s\n\nFlags:\n", m.summary, m.example)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.target, "target", o.target, "what to load: restante, or floor (the cheapest durable server, see bench floor -h)")
	flags.IntVar(&o.publishers, "publishers", o.publishers, "connections that post, one request at a time each")
	flags.IntVar(&o.users, "users", o.users, "users messages are posted to, each with one connected client")
	flags.IntVar(&o.connected, "connected", o.connected, "throughput, batch, latency, soak: only so many of the users have a client (0: all)")
	flags.IntVar(&o.size, "size", o.size, "bytes of a message")
	flags.IntVar(&o.rate, "rate", o.rate, "latency, soak: messages per second over all publishers")
	flags.IntVar(&o.group, "group", o.group, "batch: messages per POST")
	flags.IntVar(&o.connections, "connections", o.connections, "idle: connections to open")
	flags.IntVar(&o.backlog, "backlog", o.backlog, "drain, storm: messages pending per user")
	flags.IntVar(&o.past, "past", o.past, "throughput, batch, latency: delivered messages of other users that the log holds already")
	flags.IntVar(&o.streams, "streams", o.streams, "offline: users with a pending message who never connect")
	flags.IntVar(&o.jobs, "jobs", o.jobs, "offline: of those, users with a delivery job that is not due yet")
	flags.StringVar(&o.troubles, "troubles", "", "neighbours: only these, comma-separated (default: all)")
	flags.IntVar(&o.strangers, "strangers", o.strangers, "neighbours: users who never existed and are posted to")
	flags.IntVar(&o.expired, "expired", o.expired, "neighbours: expired messages of one user")
	flags.IntVar(&o.silent, "silent", o.silent, "neighbours: clients that do not read")
	flags.IntVar(&o.bodies, "bodies", o.bodies, "neighbours: requests whose body does not come")
	flags.DurationVar(&o.duration, "duration", o.duration, "how long to measure")
	flags.DurationVar(&o.warmup, "warmup", o.warmup, "how long to run before measuring")
	flags.DurationVar(&o.settle, "settle", o.settle, "idle, offline: how long to leave the servers alone before they are looked at")
	flags.DurationVar(&o.every, "every", o.every, "soak: time between samples")

	flags.StringVar(&o.server, "server", "", "gateway binary to start (default: go build ./cmd/server)")
	flags.StringVar(&o.flags, "gateway-flags", o.flags, "more flags for the gateways that are started, separated by spaces")
	flags.IntVar(&o.replicas, "replicas", o.replicas, "gateway replicas to start")
	flags.IntVar(&o.cores, "cores", 0, "let each server that is started use so many cores at once, as GOMAXPROCS does (0: all)")
	flags.StringVar(&o.floorServer, "floor-server", "", "program to start instead of bench floor: it takes -dsn and -addr, talks like it, and keeps its rows in a table named as itself")
	flags.BoolVar(&o.cross, "cross", false, "post to the first replica, connect to the others")
	flags.StringVar(&o.dir, "dir", "", "where the private PostgreSQL keeps its data while the run lasts: its disk is measured too (default: the system's temporary directory)")

	flags.StringVar(&o.urls, "url", "", "use servers that run already instead of starting any: their URLs, comma-separated")
	flags.StringVar(&o.database, "database-url", "", "with -url: their database, which has the last word on what was stored")
	flags.StringVar(&o.keyFile, "api-key-file", "", "with -url: file with an API key of scope publish")
	flags.StringVar(&o.issuer, "issuer", "http://127.0.0.1:8081", "with -url: development issuer to make users bench-0, bench-1, … at")
	flags.StringVar(&o.admins, "admin", "", "with -url: URLs of the gateways' admin listeners, comma-separated, for memory and goroutines")
	flags.StringVar(&o.pids, "server-pid", "", "with -url: process ids of the servers, comma-separated, for CPU and memory")

	flags.StringVar(&o.json, "json", "", "also write the figures to this file")
	flags.BoolVar(&o.progress, "progress", true, "a line per second on standard error")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, errHelp
		}
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if m.own && o.urls != "" {
		return o, fmt.Errorf("%s fills, stops or restarts its servers: it starts its own, without -url", m.name)
	}
	return o, o.validate()
}

func (o *options) validate() error {
	if o.target != "restante" && o.target != "floor" {
		return fmt.Errorf("-target is %q, want restante or floor", o.target)
	}
	bounds := []struct {
		name       string
		n, low, up int
	}{
		{"publishers", o.publishers, 1, 4096}, {"users", o.users, 1, 100_000}, {"size", o.size, 64, 64 << 10},
		{"rate", o.rate, 1, 100_000}, {"connections", o.connections, 1, maxConnected}, {"backlog", o.backlog, 1, 10_000},
		{"connected", o.connected, 0, maxConnected}, {"group", o.group, 1, 1000},
		{"past", o.past, 0, 20_000_000}, {"streams", o.streams, 1, 10_000_000}, {"jobs", o.jobs, 0, o.streams}, {"replicas", o.replicas, 1, 16},
		{"cores", o.cores, 0, 1024},
		{"strangers", o.strangers, 1000, 1_000_000}, {"expired", o.expired, 1, 20_000_000}, {"silent", o.silent, 1, 5000}, {"bodies", o.bodies, 1, 10_000},
	}
	for _, b := range bounds {
		if b.n < b.low || b.n > b.up {
			return fmt.Errorf("-%s is %d, want %d to %d", b.name, b.n, b.low, b.up)
		}
	}
	if o.duration < time.Second || o.duration > time.Hour || o.warmup < 0 || o.warmup > time.Hour || o.settle < 0 || o.settle > time.Hour {
		return errors.New("-duration must be 1s to 1h, -warmup and -settle at most 1h")
	}
	if o.every < time.Second || o.every > time.Minute {
		return errors.New("-every must be 1s to 1m")
	}
	if (o.mode == "drain" || o.mode == "storm") && o.users*o.backlog > maxBacklog {
		return fmt.Errorf("-users times -backlog is %d, want at most %d", o.users*o.backlog, maxBacklog)
	}
	if o.clients() > maxConnected {
		return fmt.Errorf("-users is %d: at most %d can be connected, set -connected", o.users, maxConnected)
	}
	if o.mode == "neighbours" {
		if err := o.validateTroubles(); err != nil {
			return err
		}
	}
	if o.mode == "storm" && o.replicas < 2 {
		return errors.New("storm kills a replica: it needs -replicas 2 or more")
	}
	if o.target == "floor" && (o.replicas > 1 || o.cross) {
		return errors.New("the floor has one replica")
	}
	if o.target == "floor" && (o.mode == "storm" || o.mode == "offline" || o.mode == "neighbours") {
		return fmt.Errorf("%s is about what the floor does not promise", o.mode)
	}
	if o.cross && o.urls == "" && o.replicas < 2 {
		return errors.New("-cross needs -replicas 2 or more")
	}
	if o.past > 0 && (o.urls != "" || o.target == "floor") {
		return errors.New("-past fills the database of a gateway that bench has started")
	}
	if o.urls == "" {
		return nil
	}
	if o.database == "" {
		return errors.New("-url needs -database-url")
	}
	if o.target == "restante" && o.keyFile == "" {
		return errors.New("-url needs -api-key-file")
	}
	if err := loopbackURL(o.issuer); err != nil {
		return fmt.Errorf("-issuer: %w", err)
	}
	if o.admins != "" {
		if _, err := addresses("-admin", o.admins); err != nil {
			return err
		}
	}
	_, err := addresses("-url", o.urls)
	return err
}

func (o *options) validateTroubles() error {
	if o.users <= apart {
		return fmt.Errorf("-users is %d: neighbours keeps %d of them for the troubles", o.users, apart)
	}
	var names []string
	for _, t := range troubles() {
		names = append(names, t.name)
	}
	for name := range strings.SplitSeq(o.troubles, ",") {
		if name != "" && !slices.Contains(names, name) {
			return fmt.Errorf("-troubles: unknown %q, want some of %s", name, strings.Join(names, ", "))
		}
	}
	return nil
}

// clients is how many users are connected.
func (o *options) clients() int {
	switch {
	case o.mode == "idle":
		return o.connections
	case o.connected > 0:
		return min(o.connected, o.users)
	}
	return o.users
}

// floorTable is the table that the floor keeps its rows in.
func (o *options) floorTable() string {
	if o.floorServer == "" {
		return "floor"
	}
	return filepath.Base(o.floorServer)
}

// addresses returns the host:port of each URL of a flag. Load goes to this
// machine only.
func addresses(name, urls string) ([]string, error) {
	var all []string
	for text := range strings.SplitSeq(urls, ",") {
		text = strings.TrimSpace(text)
		if err := loopbackURL(text); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		u, err := url.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, u.Host)
	}
	return all, nil
}

// loopbackURL refuses what is not http://LOOPBACK:PORT. Load against a machine
// somebody else may be using is not something to start by accident.
func loopbackURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	if u.Scheme != "http" || u.Port() == "" {
		return fmt.Errorf("%q is not of the form http://127.0.0.1:PORT", text)
	}
	if !loopbackHost(u.Hostname()) {
		return fmt.Errorf("%q is not a loopback address: bench puts load on this machine only", u.Hostname())
	}
	return nil
}

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
