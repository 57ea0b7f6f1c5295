// Package checker is the judge of every test and load run: it is told what
// publishers posted and what clients saw, and says whether a message was lost,
// reordered, changed, invented or skipped. Multi-replica, crash and browser
// tests and cmd/bench all use this one, so a promise is written down once.
//
// # What it is told, and when
//
// Whatever a call claims must be true at the moment of the call, and a claim
// that the gateway could act upon must be made before the gateway can know:
//
//   - [Checker.Posted] before the POST is written; then exactly one of
//     [Checker.Accepted] (202), [Checker.Refused] (an answer that says nothing
//     was written) or [Checker.Unknown] (no answer, or one that says the outcome
//     is unknown). An unknown message may be accepted by a later retry. A post
//     without any of them counts as unknown.
//   - [Checker.Connect] before a client dials; then [Conn.Received] and
//     [Conn.Gap] for each frame as it was read, before the next is read;
//     [Conn.Confirmed] before the acknowledgement is written; [Conn.Closed] once
//     the client will read no more.
//   - [Checker.Stream] at the end, once per user, with head and acked as the log
//     itself holds them. It must be called when nothing is posted any more and
//     the clients have had the time they are allowed ([Checker.Waiting] is 0).
//
// # What it checks
//
// Within one connection (I4 of the design: strictly rising seq, no hole but an
// announced gap):
//
//   - The first seq f, of a message or of a gap, is at most C+1, where C is the
//     highest seq that any client of the user had confirmed, or that expired,
//     when f was read. Delivery starts behind the durable acked, and acked <= C
//     (I5), so a start beyond C+1 has skipped something nobody confirmed. A start
//     before C+1 is a repeat, and legal: acknowledgements may be lost, never
//     invented. When the client asked for a position ([Connect] with after, or a
//     server's hello told to [Conn.Hello]) f is exactly the next one. A hello starts
//     at what some client confirmed, or before: what no client got, and none can have
//     confirmed, lies in a gap that is announced, however often clients come and go.
//   - Every later seq is the previous one + 1; a gap from..to takes the place of
//     its seqs and starts at the previous one + 1.
//
// Repeats only right after a (re)connect follows from the two: a connection
// never goes back, so what it repeats of earlier connections comes first.
//
// Within one user:
//
//   - A seq has one content for ever: on every connection, and in the 202.
//   - One publisher's messages have rising seqs in the order in which it posted
//     them. A message whose outcome was once unknown is exempt: it may have been
//     taken late. No message is there twice, retried or not.
//   - A client confirms only what some client of the user had received.
//
// At the end (I1, I2, I3 and I6 as far as a client can see them: nothing stays
// behind while somebody is connected):
//
//   - Every seq 1..head was accepted, or holds a message of unknown outcome;
//     nothing accepted lies beyond head, nothing refused or never posted was
//     received.
//   - Every live connection has reached head.
//   - acked is at most what a client confirmed or what expired (I5).
//   - What a gap announced, or acked passed without a confirmation, had expired by
//     then, where the publisher tells how long its messages live ([Message].Until).
//
// I1 to I3 speak of lanes and delivery jobs, which no client sees; their own
// tests look into the tables. No other time is judged here.
//
// # Cost
//
// Nine bytes per message, some fifty more for one that has an Until, and a few
// hundred per user and connection. A call takes one user's lock and, at worst, one
// map operation, so tens of thousands of messages a second cost a few per cent of a
// core. All methods may be called from any goroutine; the calls of one [Conn] must
// be in the order of its socket.
package checker
