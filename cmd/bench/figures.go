package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
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
	Lateness   *spread        `json:"lateness,omitempty"` // due to be posted → the generator got to it; part of the other two
	CPU        *cpu           `json:"cpu,omitempty"`
	WALBytes   float64        `json:"wal_bytes_per_message,omitempty"`
	Idle       *idled         `json:"idle,omitempty"`
	Drain      *drained       `json:"drain,omitempty"`
	Storm      *stormed       `json:"storm,omitempty"`
	Offline    *offlined      `json:"offline,omitempty"`
	Soak       []soakSample   `json:"soak,omitempty"`
	Neighbours []neighbour    `json:"neighbours,omitempty"`
	Refused    int64          `json:"refused"`    // posts answered with an error
	Unanswered int64          `json:"unanswered"` // posts of unknown outcome
	Reconnects int64          `json:"reconnects"`
	Late       int64          `json:"late,omitempty"`      // messages due and not begun at the end, beyond one per publisher
	Unsettled  int            `json:"unsettled,omitempty"` // users with acknowledgements that did not get to the database
	Errors     []string       `json:"errors,omitempty"`    // the first few
	Verdict    checker.Report `json:"verdict"`
}

// cpu is CPU time in microseconds per message received.
type cpu struct {
	Server   float64 `json:"server_us"`
	Postgres float64 `json:"postgres_us"`
	Both     float64 `json:"both_us"`
}

type drained struct {
	Stored          int64   `json:"stored"`
	StoredPerSecond float64 `json:"stored_per_second"`
	ConnectSeconds  float64 `json:"connect_seconds"` // until the last client was connected
	SettledSeconds  float64 `json:"settled_seconds"` // until every acknowledgement was in the database
}

// trouble is why the figures of a run cannot be relied on, empty if they can.
func (f *figures) trouble() string {
	var all []string
	add := func(n int64, what string) {
		if n > 0 {
			all = append(all, fmt.Sprint(n, " ", what))
		}
	}
	reconnects := f.Reconnects
	if f.Storm != nil {
		reconnects -= int64(f.Storm.Clients) // each lost its replica once
	}
	add(int64(f.Verdict.Count), "violations of order or losses")
	add(f.Refused, "posts refused")
	add(f.Unanswered, "posts of unknown outcome")
	add(reconnects, "lost connections")
	add(f.Late, "messages due and not posted at the end")
	add(int64(f.Unsettled), "users whose acknowledgements did not get to the database")
	return strings.Join(all, ", ")
}

func (b *bench) describe() {
	b.Mode, b.Target, b.At = b.mode, b.target, time.Now().UTC().Truncate(time.Second)
	b.CPUs, b.System = runtime.NumCPU(), runtime.GOOS+"/"+runtime.GOARCH+" "+runtime.Version()
	b.Settings = map[string]any{
		"publishers": b.publishers, "users": b.load.users, "size": b.size, "replicas": len(b.env.servers), "cross": b.cross, "cores": b.cores,
	}
	switch b.mode {
	case "latency", "soak", "neighbours":
		b.Settings["rate"] = b.rate
	case "drain":
		b.Settings["backlog"] = b.backlog
	}
}

// save writes figures as JSON. Whoever is interrupted leaves the file as it was.
func save(path string, figures any) error {
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
