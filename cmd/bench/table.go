package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

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
	if f.Delivery != nil && f.Neighbours == nil {
		row("post to client", "%v", f.Delivery)
		row("post to 202", "%v", f.Answer)
	}
	if f.Lateness != nil {
		row("of it generator", "%v", f.Lateness)
	}
	if f.CPU != nil {
		row("CPU per message", "%.0f µs: server %.0f, Postgres %.0f", f.CPU.Both, f.CPU.Server, f.CPU.Postgres)
	}
	if f.WALBytes > 0 {
		row("write-ahead log", "%.0f bytes per message", f.WALBytes)
	}
	f.modeRows(row)
	if trouble := f.trouble(); trouble != "" {
		row("not valid", "%s", trouble)
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

// modeRows are the rows that only one mode has.
func (f *figures) modeRows(row func(name, format string, args ...any)) {
	if d := f.Drain; d != nil {
		row("backlog", "%d stored at %.0f/s; clients connected after %.2f s, acknowledgements in the database after %.2f s",
			d.Stored, d.StoredPerSecond, d.ConnectSeconds, d.SettledSeconds)
	}
	if i := f.Idle; i != nil {
		if i.BytesEach > 0 {
			row("idle connection", "%.1f KiB resident, %.2f goroutines (%d connections)", i.BytesEach/1024, i.GoroutinesEach, i.Connections)
		}
		if i.With.KnownCPU && i.Without.KnownCPU {
			row("server", "%.2f %% of a core, %.2f without connections, over %.0f s each", i.With.Server, i.Without.Server, f.Seconds)
			row("PostgreSQL", "%.2f %% of a core, %.2f without", i.With.Postgres, i.Without.Postgres)
		}
		row("write-ahead log", "%.0f bytes/s, %.0f without: connections cause %+.0f", i.With.WAL, i.Without.WAL, i.With.WAL-i.Without.WAL)
	}
	if s := f.Storm; s != nil {
		row("after the kill", "first client back after %.2f s, all after %.2f s, %d pending messages delivered after %.2f s, acknowledged after %.2f s",
			s.FirstSeconds, s.ConnectedSeconds, s.Pending, s.DeliveredSeconds, s.SettledSeconds)
	}
	if o := f.Offline; o != nil {
		phase := func(name string, p phase) {
			row(name, "%.0f messages/s, %.0f µs CPU per message, %.1f MiB resident", p.Rate, p.CPU, float64(p.Memory)/(1<<20))
		}
		phase("no offline user", o.Before)
		phase(fmt.Sprint(o.Streams, " offline users"), o.After)
		phase(fmt.Sprint("and ", o.Jobs, " jobs"), o.WithJobs)
		row("River's fetch", "%.2f ms with nothing due, %.2f ms with %d jobs due later", o.Fetch, o.FetchJobs, o.Jobs)
	}
	for i := range f.Neighbours {
		f.Neighbours[i].rows(row)
	}
	if n := len(f.Soak); n > 0 {
		for _, s := range []soakSample{f.Soak[0], f.Soak[n/2], f.Soak[n-1]} {
			row(fmt.Sprintf("after %.0f s", s.Seconds), "%.0f messages/s, %v, %.0f bytes of log each, %.0f MiB resident", s.Rate, s.CPU, s.WALBytes, float64(s.Memory)/(1<<20))
			for _, t := range s.Tables {
				row("", "%s %.1f MiB + %.1f MiB of indexes, %d dead rows", t.Name, float64(t.Bytes)/(1<<20), float64(t.Indexes)/(1<<20), t.Dead)
			}
		}
	}
}

func (c *cpu) String() string {
	if c == nil {
		return "CPU unknown"
	}
	return fmt.Sprintf("%.0f µs CPU per message: server %.0f, Postgres %.0f", c.Both, c.Server, c.Postgres)
}
