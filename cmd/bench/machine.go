package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// machine is where and when figures were taken. Commit and system call are what
// everything here is made of: without them figures of two machines do not
// compare. Load is that of the last minute at the start and at the end: figures
// of a machine that was busy with something else are worth little.
type machine struct {
	At         time.Time `json:"at"`
	Minutes    float64   `json:"minutes"`
	CPU        string    `json:"cpu"`
	CPUs       int       `json:"cpus"`
	MemoryGiB  float64   `json:"memory_gib"`
	Kernel     string    `json:"kernel"`
	Filesystem string    `json:"filesystem,omitempty"` // of the database
	Postgres   string    `json:"postgres"`
	Go         string    `json:"go"`
	Commit     string    `json:"commit"`
	CommitMS   float64   `json:"row_commit_ms"`  // median
	SyscallUS  float64   `json:"system_call_us"` // median
	LoadStart  float64   `json:"load_start"`
	LoadEnd    float64   `json:"load_end"`
}

// describeMachine leaves out what this system does not tell.
func describeMachine(ctx context.Context, o options, out io.Writer) (m *machine, err error) {
	m = &machine{At: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), CPU: runtime.GOARCH, Kernel: runtime.GOOS, Go: runtime.Version(), LoadStart: loadAverage()}
	if model := valueIn("/proc/cpuinfo", "model name"); model != "" {
		m.CPU = model
	}
	if kib, err := strconv.ParseFloat(strings.TrimSuffix(valueIn("/proc/meminfo", "MemTotal"), " kB"), 64); err == nil {
		m.MemoryGiB = kib / (1 << 20)
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = "Linux " + strings.TrimSpace(string(release))
	}
	if commit, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(commit))
	}
	m.SyscallUS = syscallMicroseconds()

	e := &environment{}
	defer func() { err = errors.Join(err, e.stop()) }()
	dir, err := e.startDatabase(ctx, &o, out)
	if err != nil {
		return nil, err
	}
	m.Filesystem = filesystemOf(dir)
	if m.CommitMS, err = commitMilliseconds(ctx, e.db); err != nil {
		return nil, err
	}
	return m, e.db.QueryRow(ctx, `SELECT split_part(current_setting('server_version'), ' ', 1)`).Scan(&m.Postgres)
}

// now is what the machine is like after what was done until now.
func (m *machine) now() { m.Minutes, m.LoadEnd = time.Since(m.At).Minutes(), loadAverage() }

func (m *machine) String() string {
	return fmt.Sprintf("%d × %s, %.0f GiB, %s, %s, PostgreSQL %s: a row committed in %.2f ms, a system call in %.2f µs. %s, commit %s, %s, took %.0f minutes, load average %.1f before and %.1f after",
		m.CPUs, m.CPU, m.MemoryGiB, m.Kernel, cmp.Or(m.Filesystem, "file system unknown"), m.Postgres, m.CommitMS, m.SyscallUS,
		m.Go, m.Commit, m.At.Format("2006-01-02 15:04 MST"), m.Minutes, m.LoadStart, m.LoadEnd)
}

// syscallMicroseconds is the cost of the cheapest system call. Virtual machines
// differ in it by ten times, and servers of small messages do little else.
func syscallMicroseconds() float64 {
	const each = 1000
	var took []float64
	for range 51 {
		started := time.Now()
		for range each {
			syscall.Getppid()
		}
		took = append(took, float64(time.Since(started).Nanoseconds())/1000/each)
	}
	return medianOf(took)
}

// filesystemOf is the type of the file system that a directory is on, "" if unknown.
func filesystemOf(dir string) (kind string) {
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil {
		return ""
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return ""
	}
	longest := 0
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		at := strings.TrimSuffix(fields[1], "/") + "/"
		if strings.HasPrefix(dir+"/", at) && len(at) >= longest {
			longest, kind = len(at), fields[2]
		}
	}
	return kind
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
