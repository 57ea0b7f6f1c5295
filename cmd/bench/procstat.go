package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Processes are measured through /proc: on other systems, and for processes of
// other machines, there is nothing to read and the figures are left out.

// userTicks is the unit of times in /proc, the same on every Linux that Go
// supports.
const userTicks = 100

// stat is what is read of /proc/PID/stat.
type stat struct {
	parent int
	cpu    time.Duration // of the process and of children it has waited for
}

func readStat(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	// The name in parentheses may hold anything, so count from its end.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 15 {
		return stat{}, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var s stat
	if s.parent, err = strconv.Atoi(fields[1]); err != nil {
		return stat{}, err
	}
	var ticks int64
	for _, field := range fields[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return stat{}, err
		}
		ticks += n
	}
	s.cpu = time.Duration(ticks) * time.Second / userTicks
	return s, nil
}

// cpuOf is the CPU time used so far by processes and all their descendants.
func cpuOf(roots []int) (total time.Duration, ok bool) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(entries) == 0 || len(roots) == 0 {
		return 0, false
	}
	all := map[int]stat{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil { // gone meanwhile: its parent has its time
			all[pid] = s
		}
	}
	wanted := map[int]bool{}
	for _, root := range roots {
		if _, there := all[root]; !there {
			return 0, false
		}
		wanted[root] = true
	}
	for pid, s := range all {
		for up := pid; up > 1; up = all[up].parent {
			if wanted[up] {
				total += s.cpu
				break
			}
		}
	}
	return total, true
}

// residentOf is the resident memory of a process in bytes.
func residentOf(pid int) (int64, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10, err == nil
		}
	}
	return 0, false
}

// postmaster finds the process all of Postgres descends from, if it runs on
// this machine: it is the parent of the backend that serves us.
func postmaster(ctx context.Context, db *pgxpool.Pool) (pid int, ok bool) {
	var backend int
	if err := db.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return 0, false
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", backend))
	if err != nil || !strings.HasPrefix(string(name), "postgres") {
		return 0, false
	}
	s, err := readStat(backend)
	return s.parent, err == nil
}
