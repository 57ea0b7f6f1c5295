package checker

import "time"

// Conn is one client connection. Its methods are called in the order of what
// happens on the socket.
type Conn struct {
	c      *Checker
	u      *user
	number int64

	// Guarded by u.mu.
	began     bool
	last      int64     // last seq received or given up
	want      int64     // first seq that must come, 0: any up to start+1
	since     int64     // highest seq the user had received when this connection began
	nameless  []Message // plain frames at the start whose seq is not known yet
	confirmed int64
}

// Connect tells that a client of the user is about to dial. After is the
// position the client asks for, or FromAcked.
func (c *Checker) Connect(userID string, after int64) *Conn {
	u := c.user(userID)
	u.mu.Lock()
	defer u.mu.Unlock()
	conn := &Conn{c: c, u: u, number: c.conns.Add(1), since: u.maxReceived}
	if after >= 0 {
		conn.want = after + 1
	}
	u.live[conn] = struct{}{}
	return conn
}

// Hello tells what the server says when the connection opens: where it starts.
func (conn *Conn) Hello(head, acked int64) {
	u := conn.u
	u.mu.Lock()
	defer u.mu.Unlock()
	u.overtaken(acked)
	if acked > u.confirmed {
		conn.c.fault(KindAcked, u, conn, "hello says acked %d, clients confirmed %d: whatever expired in between has to be announced", acked, u.confirmed)
	}
	if acked > head {
		conn.c.fault(KindAcked, u, conn, "hello says acked %d beyond head %d", acked, head)
	}
	if conn.want == 0 {
		conn.want = acked + 1
	}
}

// floor is what a connection that has received nothing yet may be said to have.
func (conn *Conn) floor() int64 {
	if conn.began {
		return conn.last
	}
	if conn.want > 0 {
		return conn.want - 1
	}
	return conn.u.start()
}

// place judges the position of what came next on the connection: seqs
// from..to. It reports whether they are new to the connection.
func (conn *Conn) place(from, to int64, what string) bool {
	u := conn.u
	if from < 1 || to < from || to > max(u.top(), u.start())+maxJump {
		conn.c.fault(KindInvented, u, conn, "%s %d..%d is out of all bounds", what, from, to)
		return false
	}
	switch {
	case !conn.began && conn.want > 0 && from != conn.want:
		kind := KindHole
		if from < conn.want {
			kind = KindRepeat
		}
		conn.c.fault(kind, u, conn, "the first %s is %d, the position asked for makes it %d", what, from, conn.want)
	case !conn.began && conn.want == 0 && from > u.start()+1:
		conn.c.fault(KindHole, u, conn, "the first %s is %d, but clients confirmed only %d: %d skipped", what, from, u.start(), from-u.start()-1)
	case conn.began && from <= conn.last:
		conn.c.fault(KindRepeat, u, conn, "%s %d after %d on the same connection", what, from, conn.last)
		return false
	case conn.began && from > conn.last+1:
		conn.c.fault(KindHole, u, conn, "%s %d after %d: %d skipped without a gap", what, from, conn.last, from-conn.last-1)
	}
	conn.began, conn.last = true, to
	u.grow(to)
	return true
}

// Received tells that the connection read a message with its seq.
func (conn *Conn) Received(seq int64, m Message) {
	u := conn.u
	u.mu.Lock()
	defer u.mu.Unlock()
	conn.received(seq, m)
}

func (conn *Conn) received(seq int64, m Message) {
	u := conn.u
	u.received++
	if seq <= conn.since {
		u.repeated++
	}
	if !conn.place(seq, seq, "seq") || seq <= u.base {
		return
	}
	if !u.take(seq, m) {
		detail := "a content nobody has seen before"
		if at := u.find(m.Digest); at != 0 {
			detail = "the content of seq " + itoa(at)
		}
		conn.c.fault(KindChanged, u, conn, "seq %d came with %s (publisher %d message %d)", seq, detail, m.Publisher, m.N)
	}
	u.maxReceived = max(u.maxReceived, seq)
}

// ReceivedPlain tells that the connection read a message in plain mode, where
// frames carry no seq. Place in the stream follows from the content of the
// first and from counting after it; a frame that was left out or came early
// shows as a changed content. Reading a plain frame confirms it, since it is the
// client's WebSocket stack that answers the ping behind it.
func (conn *Conn) ReceivedPlain(m Message) {
	u := conn.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if !conn.began {
		conn.nameless = append(conn.nameless, m)
		conn.name(false)
		return
	}
	conn.plain(conn.last+1, m)
}

func (conn *Conn) plain(seq int64, m Message) {
	conn.received(seq, m)
	conn.confirmed = conn.last
	conn.u.confirmed = max(conn.u.confirmed, conn.last)
}

// name gives the plain frames at the start of the connection their seqs once
// one of them is known by its content. At the end (last) those that are still
// nameless, all of unknown outcome, are taken to be the next ones.
func (conn *Conn) name(last bool) {
	if len(conn.nameless) == 0 {
		return
	}
	first := int64(0)
	for i, m := range conn.nameless {
		if seq := conn.u.find(m.Digest); seq != 0 {
			first = seq - int64(i)
			break
		}
	}
	if first == 0 && last {
		first = conn.u.start() + 1
	}
	if first == 0 {
		return
	}
	named := conn.nameless
	conn.nameless = nil
	for i, m := range named {
		conn.plain(first+int64(i), m)
	}
}

// Gap tells that the connection read the announcement that from..to will not
// come.
func (conn *Conn) Gap(from, to int64) {
	u := conn.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if !conn.place(from, to, "gap") {
		return
	}
	u.giveUp(from, to, time.Now())
}

// Confirmed tells that the client is about to acknowledge everything up to seq.
func (conn *Conn) Confirmed(seq int64) {
	u := conn.u
	u.mu.Lock()
	defer u.mu.Unlock()
	if seq > max(conn.last, u.maxReceived, u.start()) {
		conn.c.fault(KindMisuse, u, conn, "confirms %d, no client received more than %d", seq, u.maxReceived)
		return
	}
	conn.confirmed = max(conn.confirmed, seq)
	u.confirmed = max(u.confirmed, seq)
}

// Last returns the last seq that the connection received or that a gap on it
// gave up, 0 for none.
func (conn *Conn) Last() int64 {
	conn.u.mu.Lock()
	defer conn.u.mu.Unlock()
	return conn.last
}

// Closed tells that nothing will be read from the connection any more.
func (conn *Conn) Closed() {
	conn.u.mu.Lock()
	defer conn.u.mu.Unlock()
	delete(conn.u.live, conn)
}
