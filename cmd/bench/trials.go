package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// trial is a mode with its flags, run for the bars.
type trial struct {
	name  string // what the bars call it
	args  string // the mode and its flags
	floor bool   // also against the floor, in turns
	most  int    // repeats at most, for what takes long; 0 for as many as all
}

// trials are the runs behind bars 1 to 7, and with long those of bar 8 too. What
// is compared with something else stands next to it, so that the machine is much
// the same for both.
//
// The gateway's delivery jobs are due 10 s after a message: it warms up for
// longer, so that they are part of what is measured.
func trials(long bool) []trial {
	const (
		one  = "throughput -duration 4s -warmup 12s"
		due  = "latency -warmup 12s "
		same = "latency -rate 3000 "
	)
	again, offline := 1, "9s"
	if long {
		again, offline = 0, "60s" // a minute: trim comes round once
	}
	all := []trial{
		{name: "64 publishers", args: one, floor: true},
		{name: "64 publishers again", args: one, most: again},
	}
	if long {
		all = append(all,
			// A user with a message every few seconds has a look of the delivery job a
			// minute: the window is one. Of 100,000 nearly all have had their first message.
			trial{name: "3000/s 100 users", args: same + "-warmup 20s -duration 60s -users 100", most: 2},
			trial{name: "3000/s 1000 users", args: same + "-warmup 20s -duration 60s -users 1000", most: 2},
			trial{name: "3000/s 10000 users", args: same + "-warmup 20s -duration 60s -users 10000", most: 2},
			trial{name: "3000/s 100000 users", args: same + "-warmup 100s -duration 60s -users 100000 -connected 8000", most: 1},
			trial{name: "3000/s", args: same + "-warmup 12s -duration 6s"},
			trial{name: "3000/s 2 replicas", args: same + "-warmup 12s -duration 6s -replicas 2"},
			trial{name: "3000/s 4 replicas", args: same + "-warmup 12s -duration 6s -replicas 4"},
			trial{name: "100 users", args: one + " -users 100"},
			trial{name: "10000 users", args: one + " -users 10000"},
			trial{name: "2 replicas", args: one + " -replicas 2"},
			trial{name: "4 replicas", args: one + " -replicas 4"},
			trial{name: "1 core", args: one + " -cores 1"},
			trial{name: "1M events", args: one + " -past 1000000"},
			trial{name: "10M events", args: one + " -past 10000000", most: 1})
	}
	all = append(all,
		trial{name: "16 publishers", args: "throughput -duration 5s -warmup 12s -publishers 16", floor: true},
		trial{name: "groups", args: "batch -duration 3s -warmup 2s", floor: true},
		trial{name: "500/s", args: due + "-duration 8s -rate 500", floor: true},
		trial{name: "500/s across", args: due + "-duration 5s -rate 500 -replicas 2 -cross"},
		trial{name: "2000/s", args: due + "-duration 3s -rate 2000"},
		trial{name: "drain", args: "drain -users 100 -backlog 1000", floor: true},
		trial{name: "storm", args: "storm -users 5000 -backlog 20 -replicas 3"},
		trial{name: "idle", args: "idle -connections 10000 -settle 90s -duration 60s", most: 1},
		trial{name: "offline", args: "offline -streams 1000000 -jobs 100000 -warmup 1s -settle 2s -duration " + offline, most: 1})
	if long {
		all = append(all, trial{name: "soak", args: "soak -rate 3000 -duration 20m -every 10s -gateway-flags=-retention=2m", most: 1})
	}
	return all
}

// axes are what the work grows along: the same load, more of one thing. Each
// step is a trial, the first what the others are compared with. Users and replicas
// are judged at one rate: at full speed a faster step has more messages per commit,
// wake and ack, which makes each cheaper, so that speed is compared and not work.
var axes = []axis{
	{name: "users, all of them connected, at 3,000 messages/s", plot: "users", judged: true, steps: []step{{100, "3000/s 100 users"}, {1000, "3000/s 1000 users"}, {10_000, "3000/s 10000 users"}}},
	{name: "users, of whom 8,000 are connected, at 3,000 messages/s", judged: true, steps: []step{{100, "3000/s 100 users"}, {100_000, "3000/s 100000 users"}}},
	{name: "replicas on this machine, at 3,000 messages/s", plot: "replicas", judged: true, steps: []step{{1, "3000/s"}, {2, "3000/s 2 replicas"}, {4, "3000/s 4 replicas"}}},
	{name: "users, all of them connected, at full speed", steps: []step{{100, "100 users"}, {10_000, "10000 users"}}},
	{name: "replicas on this machine, at full speed", steps: []step{{1, "64 publishers"}, {2, "2 replicas"}, {4, "4 replicas"}}},
	{name: "events in the log", plot: "events", judged: true, steps: []step{{0, "64 publishers"}, {1_000_000, "1M events"}, {10_000_000, "10M events"}}},
	{name: "cores for the gateway (0: all)", steps: []step{{1, "1 core"}, {0, "64 publishers"}}},
}

type axis struct {
	name   string
	plot   string // file of its plot, "" for none
	judged bool   // bar 8 is about it
	steps  []step
}

type step struct {
	value int
	trial string
}

// scaleTrials are the names of all runs of the axes, which -only calls scale.
func scaleTrials() (names []string) {
	for _, a := range axes {
		for _, s := range a.steps {
			if !slices.Contains(names, s.trial) {
				names = append(names, s.trial)
			}
		}
	}
	return names
}

func trialNames() string {
	var names []string
	for _, t := range trials(true) {
		names = append(names, t.name)
	}
	return strings.Join(append(names, "scale"), ", ")
}

// chooseTrials returns those that are named, in the usual order, or all.
func chooseTrials(only string, long bool) ([]trial, error) {
	all := trials(long)
	if only == "" {
		return all, nil
	}
	for _, t := range trials(true) { // what is asked for by name need not be short
		if !slices.ContainsFunc(all, func(u trial) bool { return u.name == t.name }) {
			all = append(all, t)
		}
	}
	wanted := map[string]bool{}
	for name := range strings.SplitSeq(only, ",") {
		name = strings.TrimSpace(name)
		switch {
		case name == "scale":
			for _, name := range scaleTrials() {
				wanted[name] = true
			}
		case slices.ContainsFunc(all, func(t trial) bool { return t.name == name }):
			wanted[name] = true
		default:
			return nil, fmt.Errorf("-only: there is no %q; there are %s", name, trialNames())
		}
	}
	return slices.DeleteFunc(all, func(t trial) bool { return !wanted[t.name] }), nil
}

// options of a trial; base says which gateway and where.
func (t trial) options(base options) (mode, options, error) {
	words := strings.Fields(t.args)
	m, found := findMode(words[0])
	if !found {
		return m, base, fmt.Errorf("there is no mode %q", words[0])
	}
	o, err := parseOptions(m, words[1:], io.Discard)
	o.server, o.floorServer, o.dir = base.server, base.floorServer, base.dir
	return m, o, err
}

// onFloor is the same for the floor, which has no jobs to warm up for.
func (o options) onFloor() options {
	o.target, o.warmup = "floor", min(o.warmup, 2*time.Second)
	return o
}

func (t trial) repeats(all int) int {
	if t.most > 0 {
		return min(t.most, all)
	}
	return all
}

// estimate is how long all trials will take, about.
func estimate(wanted []trial, repeats int) (total time.Duration, err error) {
	for _, t := range wanted {
		_, o, err := t.options(options{})
		if err != nil {
			return 0, err
		}
		each := o.estimate()
		if t.floor {
			floor := o.onFloor()
			each += floor.estimate()
		}
		total += each * time.Duration(t.repeats(repeats))
	}
	return total, nil
}

// estimate reckons with what two cores took.
func (o *options) estimate() time.Duration {
	of := func(n int, each time.Duration) time.Duration { return time.Duration(n) * each }
	const (
		starting = 3500 * time.Millisecond // and stopping
		client   = 700 * time.Microsecond  // to connect
		message  = 100 * time.Microsecond  // to store singly
		row      = 20 * time.Microsecond   // to fill in
	)
	backlog, connecting := of(o.users*o.backlog, message), of(o.clients(), client)
	total := starting + of(o.replicas-1, time.Second/2) + connecting + of(o.past, row)
	switch o.mode {
	case "idle":
		return total + 2*(o.settle+o.duration) + of(o.clients(), message)
	case "drain":
		return total + backlog + 2*time.Second
	case "storm":
		return total + backlog + connecting + 2*time.Second
	case "offline":
		return total + 3*(o.settle+o.warmup+o.duration) + of(o.streams+o.jobs, row)
	}
	return total + o.warmup + o.duration
}
