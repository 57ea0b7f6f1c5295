// Package torture holds the tests that prove the promises of delivery with
// everything going wrong at once: replicas of the core (package coretest) on
// real Postgres, publishers, clients that come and go, and faults drawn from a
// seed. It has no code of its own outside of its tests.
//
// # What is proved
//
// The invariants that package events states:
//
//	I1  never head > acked while the lane is idle
//	I2  lane owed ⇒ at least one unfinished delivery job exists
//	I3  lane parked ⇒ no live session
//	I4  a session sees strictly rising seqs with no hole but an announced gap
//	I5  acked ≤ what some client has confirmed, or expired
//	I6  a session that is behind is served, whatever was lost
//
// A post that is refused because a stream is locked must be to a stream that a fault
// has held: nobody else's lock concerns it. Clients whose connections are full take
// part of what they are sent, and the rest later.
//
// The monitor looks at I1, I2, I3, I5 and I6 every few milliseconds, each time
// in one statement and so in one snapshot. The clients report to package
// checker, which judges I4, I5 and that nothing was lost, invented, changed or
// put out of order. Some messages live for a second or two, and expire while their
// users are away, or under the hands of readers: nothing is given up before its
// time, and nothing counts as delivered that no client has received. At the end the
// faults stop, and everything has to come to rest: connected users have everything,
// for the others it is pending, the log is read from its first event to its last
// and compared with what the publishers were told.
//
// # Reproducing a run
//
// Every failure prints its seed; -torture.seed takes it, -torture.steps sets the
// length. The seed determines the steps and each one's choices. When each step
// meets which other is up to the machine, so a rare failure may need several
// runs of its seed.
package torture
