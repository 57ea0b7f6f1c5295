package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// machine is where figures come from. Load is that of the last minute at the
// start and at the end: figures of a machine that was busy with something else
// are worth little.
type machine struct {
	At        time.Time `json:"at"`
	Minutes   float64   `json:"minutes"`
	CPU       string    `json:"cpu"`
	CPUs      int       `json:"cpus"`
	MemoryGiB float64   `json:"memory_gib"`
	Kernel    string    `json:"kernel"`
	Go        string    `json:"go"`
	Commit    string    `json:"commit"`
	LoadStart float64   `json:"load_start"`
	LoadEnd   float64   `json:"load_end"`
}

// describeMachine leaves out what this system does not tell.
func describeMachine() machine {
	m := machine{At: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), CPU: runtime.GOARCH, Kernel: runtime.GOOS, Go: runtime.Version(), LoadStart: loadAverage()}
	if model := valueIn("/proc/cpuinfo", "model name"); model != "" {
		m.CPU = model
	}
	if kib, err := strconv.ParseFloat(strings.TrimSuffix(valueIn("/proc/meminfo", "MemTotal"), " kB"), 64); err == nil {
		m.MemoryGiB = kib / (1 << 20)
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = "Linux " + strings.TrimSpace(string(release))
	}
	if commit, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(commit))
	}
	return m
}

func (m *machine) finish(took time.Duration) { m.Minutes, m.LoadEnd = took.Minutes(), loadAverage() }

func (m machine) String() string {
	return fmt.Sprintf("%d × %s, %.0f GiB, %s, %s, commit %s, %s, took %.0f minutes, load average %.1f before and %.1f after",
		m.CPUs, m.CPU, m.MemoryGiB, m.Kernel, m.Go, m.Commit, m.At.Format("2006-01-02 15:04 MST"), m.Minutes, m.LoadStart, m.LoadEnd)
}

// valueIn finds a line "name : value".
func valueIn(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func loadAverage() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), " ")
	load, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return load
}
