// Package coretest runs replicas of the gateway's core for tests: log, hub,
// fan-out and jobs on real Postgres, wired as cmd/server wires them, with the
// means to take away what may fail. Clients are in memory and report to the
// checker.
//
// It is imported by tests only.
package coretest
