package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"restante/internal/checker"
)

// figures are the result of a run, as written to -json.
type figures struct {
	Mode       string         `json:"mode"`
	Target     string         `json:"target"`
	At         time.Time      `json:"at"`
	CPUs       int            `json:"cpus"`
	System     string         `json:"system"`
	Settings   map[string]any `json:"settings"`
	Seconds    float64        `json:"seconds"`  // measured
	Messages   int64          `json:"messages"` // received while measuring
	Rate       float64        `json:"messages_per_second"`
	Delivery   *spread        `json:"delivery,omitempty"` // due to be posted → received
	Answer     *spread        `json:"answer,omitempty"`   // due to be posted → 202
	CPU        *cpu           `json:"cpu,omitempty"`
	Idle       *idled         `json:"idle,omitempty"`
	Drain      *drained       `json:"drain,omitempty"`
	Refused    int64          `json:"refused"`    // posts answered with an error
	Unanswered int64          `json:"unanswered"` // posts of unknown outcome
	Reconnects int64          `json:"reconnects"`
	Errors     []string       `json:"errors,omitempty"` // the first few
	Verdict    checker.Report `json:"verdict"`
}

// cpu is CPU time in microseconds per message received.
type cpu struct {
	Server   float64 `json:"server_us"`
	Postgres float64 `json:"postgres_us"`
	Both     float64 `json:"both_us"`
}

type idled struct {
	Connections         int     `json:"connections"`
	BytesEach           float64 `json:"resident_bytes_each,omitempty"`
	GoroutinesEach      float64 `json:"goroutines_each,omitempty"`
	ServerCorePercent   float64 `json:"server_core_percent"`
	PostgresCorePercent float64 `json:"postgres_core_percent"`
	Reconnects          int64   `json:"reconnects"`
}

type drained struct {
	Stored          int64   `json:"stored"`
	StoredPerSecond float64 `json:"stored_per_second"`
	ConnectSeconds  float64 `json:"connect_seconds"` // until the last client was connected
	SettledSeconds  float64 `json:"settled_seconds"` // until every acknowledgement was in the database
}

func (b *bench) describe() {
	b.Mode, b.Target, b.At = b.mode, b.target, time.Now().UTC().Truncate(time.Second)
	b.CPUs, b.System = runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH+" "+runtime.Version()
	b.Settings = map[string]any{
		"publishers": b.publishers, "users": b.load.users, "size": b.size, "replicas": len(b.env.servers), "cross": b.cross,
	}
	switch b.mode {
	case "latency":
		b.Settings["rate"] = b.rate
	case "drain":
		b.Settings["backlog"] = b.backlog
	}
}

// table writes the figures for people.
func (f *figures) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%s\t"+format+"\n", append([]any{name}, args...)...)
	}
	row("run", "%s against %s, %d users, %d publishers, %v bytes, %v replica(s), %d CPUs", f.Mode, f.Target,
		f.Settings["users"], f.Settings["publishers"], f.Settings["size"], f.Settings["replicas"], f.CPUs)
	if f.Messages > 0 {
		row("received", "%.0f messages/s (%d in %.1f s)", f.Rate, f.Messages, f.Seconds)
	}
	if f.Delivery != nil {
		row("post to client", "%v", f.Delivery)
		row("post to 202", "%v", f.Answer)
	}
	if f.CPU != nil {
		row("CPU per message", "%.0f µs: server %.0f, Postgres %.0f", f.CPU.Both, f.CPU.Server, f.CPU.Postgres)
	}
	if d := f.Drain; d != nil {
		row("backlog", "%d stored at %.0f/s; clients connected after %.2f s, acknowledgements in the database after %.2f s",
			d.Stored, d.StoredPerSecond, d.ConnectSeconds, d.SettledSeconds)
	}
	if i := f.Idle; i != nil {
		goroutines := ""
		if i.GoroutinesEach > 0 {
			goroutines = fmt.Sprintf(", %.2f goroutines", i.GoroutinesEach)
		}
		row("idle connection", "%.1f KiB resident%s (%d connections)", i.BytesEach/1024, goroutines, i.Connections)
		row("idle CPU", "server %.2f %% of a core, Postgres %.2f %%, over %.0f s", i.ServerCorePercent, i.PostgresCorePercent, f.Seconds)
	}
	if f.Refused+f.Unanswered+f.Reconnects > 0 {
		row("trouble", "%d posts refused, %d of unknown outcome, %d reconnects", f.Refused, f.Unanswered, f.Reconnects)
	}
	for _, text := range f.Errors {
		row("", "%s", strings.TrimSpace(text))
	}
	row("verdict", "%v", f.Verdict)
	return w.Flush()
}

func (s *spread) String() string {
	return fmt.Sprintf("p50 %.2f ms, p90 %.2f, p99 %.2f, max %.2f", s.P50, s.P90, s.P99, s.Max)
}

func (f *figures) save(path string) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
