package main

import (
	"encoding/json"
	"os"
	"runtime"
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
	Quiet      *quieted       `json:"quiet,omitempty"`
	Storm      *stormed       `json:"storm,omitempty"`
	Offline    *offlined      `json:"offline,omitempty"`
	Soak       []soakSample   `json:"soak,omitempty"`
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

// save writes figures as JSON.
func save(path string, figures any) error {
	text, err := json.MarshalIndent(figures, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
