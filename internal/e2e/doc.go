// Package e2e holds tests only: the gateway as its users and operators meet it,
// through the real binaries, as processes, over the network.
//
// Promise: what the README says works when it is done as written. Whatever is
// posted or received goes through the judge in [restante/internal/checker];
// nothing here looks inside a server but at its admin listener, its log, and at
// the end the log's head and acked in the database.
//
// Servers listen on ports chosen by the kernel and tell them in their first log
// lines. Every process that a test started has ended when the test ends, and no
// credential that the test used may stand in any server's log: each test checks
// both by itself, see world.
//
// Nothing is asserted about time but that things happen within patience, which
// is generous, or much sooner than by the way that must not be taken; speed is the
// business of cmd/bench.
package e2e
