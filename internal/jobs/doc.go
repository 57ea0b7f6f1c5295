// Package jobs runs River: the delivery jobs, and the periodic work that keeps
// the log and its presence in order.
//
// # Promise
//
// A user with pending events is owed their delivery by a job in Postgres: a
// crash between a commit and its wake cannot strand a message. Wakes and sweeps
// are quicker; the job is what cannot be lost.
//
// # Authority
//
// The lane (package events) decides what a delivery job has to do, River only
// when and where it runs. A job that runs twice, or late, finds its lane settled
// and ends. A job that is lost (cancelled by hand, orphaned by a crash) is put
// back by the reaper or the reconcile.
//
// # Why no unique jobs
//
// River's own uniqueness counts a running job as one that exists, and a job runs
// up to 250 ms after its worker has returned: an event appended in between would
// find a job "there" and be owed by nobody. The lane is changed in the
// transaction that inserts the job, so it cannot be wrong.
//
// # Failure
//
// A job that fails is tried again after a second, practically for ever. While
// Postgres is away nothing runs and nothing is lost.
package jobs
