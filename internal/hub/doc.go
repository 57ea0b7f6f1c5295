// Package hub holds the client connections of one replica.
//
// # Promise
//
// Each session is sent its user's events in order, without a hole that was not
// announced as a gap (I4), and whatever is lost on the way (a wake, a
// notification, an ack) it is served within the sweep period (I6), and within a
// fifth of it while its lane is owed.
//
// # One loop
//
// A session reads the log after its own position, writes what it found, and
// repeats until there is nothing more. Connect, wake, delivery job, sweep and a
// reconnected listener all lead to that loop; there is no other way to a socket.
// No message is buffered for a client: a slow one stays behind in the log.
//
//	            wake, sweep, ack                     caught up, or window full
//	waiting ───────────────────────▶ delivering ───────────────────────────────▶ waiting
//	   │                                 │
//	   └──────────── end ◀───────────────┘   connection lost, no ack, drain, maximum age
//
// A client that takes in at least one message per ack timeout makes progress, however
// slow it is (I7): it is not sent a message again because it is slow. While its
// connection is full the session is blocked: it holds no page, and reads the log again
// from its position when there is room, as much as the client has been taking.
//
// A waiting session costs one goroutine, its transport's reader. The goroutine
// that delivers is started by a wake and ends when there is nothing to do.
//
// # Wakes are hints
//
// A wake says that a stream has grown. It may be lost, doubled or merged. On the
// replica that committed it is a function call; the other replicas are told by
// NOTIFY (Fanout), and the newest events go along in it, so that they need not be read
// back. LISTEN and NOTIFY know no privileges: notifications are sealed with keys that
// only replicas have, and for one epoch. An event that was opened is believed as one
// that was read; sent again it changes nothing, for seqs decide. What does not open, or
// finds no room, is read from the log. Every few seconds the sweep compares the positions of sessions
// with the log, in one statement: those whose lane is owed, and every fifth time all,
// for a lane that one session has confirmed owes nothing to another that was missed.
//
// # Authority
//
// The log is the authority on what is pending, a session on its own position. A
// session's row in the database is a lease, good while its replica's heartbeat
// is: a replica that finds its lease lapsed attaches all its sessions again.
//
// All of a hub belongs to one epoch. When the log's history changes the replica ends
// it (Abandon) and makes a new one, so no session, wake or event crosses over.
//
// # Failure
//
// While Postgres is away sessions stay, and go on when it is back. A client that
// does not confirm in time, or whose connection is dead, is disconnected; it
// comes back and is sent again whatever it has not confirmed. There is no other
// kind of redelivery.
package hub
