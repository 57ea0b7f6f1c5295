// Package events is the event log: the only queue there is, and every SQL
// statement on it.
//
// # Promise
//
// A message whose Append returned is on disk. Within a user's stream events are
// numbered 1, 2, 3 … without a hole, in the order in which they were committed.
//
// # Authority
//
// Postgres. What this package keeps in memory is either not yet answered (the
// append queue), a copy of what has just been committed (the tail) or free to
// lose (acks that have not been written yet).
//
// # States
//
// A stream has a head (last seq appended) and an acked position (every seq up
// to there was confirmed by a client, or has expired). What lies between is
// pending. Its lane says who owes the delivery of what is pending:
//
//	idle    nothing is pending
//	owed    an unfinished delivery job exists for this user
//	parked  something may be pending, but nobody is connected
//
//	     append, somebody connected     job: nothing pending
//	idle ──────────────────────▶ owed ───────────────────────▶ idle
//	  │                           ▲ │ job: nobody connected
//	  │          connect, pending │ ▼
//	  └────────────────────────▶ parked ─────────────────────▶ idle
//	     append, nobody connected       connect, nothing pending
//
// An append to a lane that is idle asks whether somebody is connected, under the lock,
// so that no job is made for users who are away: 300,000 such jobs made those of
// everybody else ten minutes late. A stream without a row has nobody connected. When a
// crash of Postgres has emptied the table of sessions, an append may park the lane of
// a user who is connected; the replica attaches its sessions again at its next
// heartbeat, which turns the lane back.
//
// A busy lane, one whose user has had several events and the last of them not long
// ago, stays owed for a minute or so though nothing is pending (StillOwed).
//
// Every transition happens under the lock of the stream's row, and whoever turns
// a lane to owed inserts the delivery job in the same transaction. So, after any
// commit:
//
//	I1  never head > acked while the lane is idle
//	I2  lane owed ⇒ at least one unfinished delivery job exists
//	I3  lane parked ⇒ no live session
//	I5  acked ≤ what some client has confirmed, or expired
//
// # Expiry
//
// An event whose time is up while it is pending expires, and is counted. Trim sees
// to that, or a reader that comes past it, before its client is told of the gap.
// Either deletes the event under the stream's lock or, where there are many, records
// a range of them (expired_ranges) in one step; Trim deletes those later. So what is
// there, up to acked and in no range, was delivered, and what is not there, beyond
// trimmed, has expired.
//
// Every read, delete and look through a stream is bounded, and holds a stream's lock
// for one round trip. A reader finds the end of a long run of expired events by the
// latest expiry of each block of 1,024 (event_blocks): 5,000,000 in milliseconds. An
// entry may name too late a time, never one too early.
//
// acked moves over what has expired. What clients have confirmed then stays behind,
// as streams.confirmed, and sessions begin there: a client that comes back is told of
// the gap, whether trim has been or not, until it confirms the gap's end or more.
//
// Two rules keep all this true. Statements that lock several streams and wait for them
// lock them in the order of their user ids, in one statement. And what depends on a
// lock is looked at in a later statement than the one that takes it: under READ
// COMMITTED a statement's snapshot is older than the locks it waits for.
//
// # Publishers
//
// Two loops commit: one the large requests, one all others, so that a message never
// waits for an array of 8 MiB. Before each, publishers wait in lines of their own and
// share the commits equally by what they cost (see queue). The order within a stream is
// that of the commits. Requests of one publisher that wait at the same time may
// overtake each other only when one of them is large.
//
// # Failure
//
// No statement waits for a stream's lock while others wait for it. A commit gives up
// after 50 ms; from then on it leaves out what is locked, and so do acks. What was left
// out is tried again on its own (aside, acker.late), and waited for only by a
// transaction that holds nothing else. A message whose stream stays locked for 5 s is
// refused.
//
// An append that Postgres refused is rolled back as a whole and then tried in halves,
// so that one bad message fails alone. An append whose
// connection broke while it ran is never repeated: its outcome is unknown, and
// only the publisher's idempotency key can decide. A failed ack is kept and
// written later; losing one only delivers again. A failed read is the reader's
// to repeat.
package events
