package checker

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
)

// Kind names what went wrong. It is the first word of a violation.
type Kind string

// The kinds of violations.
const (
	KindHole     Kind = "hole"     // a seq was skipped on a connection without an announced gap
	KindRepeat   Kind = "repeat"   // a connection went back, or began before the position asked for
	KindChanged  Kind = "changed"  // a seq has two contents
	KindOrder    Kind = "order"    // a publisher's messages are not in the order it posted them, or one is there twice
	KindInvented Kind = "invented" // something was delivered that nobody posted, or that was refused
	KindLost     Kind = "lost"     // something accepted is not in the log, or head counts what nobody posted
	KindStranded Kind = "stranded" // a live connection never got what the log holds
	KindAcked    Kind = "acked"    // acked moved beyond what clients confirmed
	KindMisuse   Kind = "misuse"   // the test itself told something impossible
)

// shown is how many violations a report spells out.
const shown = 50

// Report is the verdict.
type Report struct {
	Users      int            `json:"users"`
	Accepted   int64          `json:"accepted"`   // messages answered 202
	Received   int64          `json:"received"`   // messages read by clients, repeats and second devices included
	Duplicates int64          `json:"duplicates"` // of those, read again after a reconnect
	Gaps       int64          `json:"gaps"`       // seqs that were announced as gone
	Unknown    int64          `json:"unknown"`    // posts whose outcome was never learnt
	Violations []string       `json:"violations"` // the first 50
	Kinds      map[Kind]int64 `json:"kinds"`      // how many of each
	Count      int64          `json:"count"`      // how many in all
}

// Clean reports whether nothing was violated.
func (r Report) Clean() bool { return r.Count == 0 }

// String is one line for people, or several if there are violations.
func (r Report) String() string {
	verdict := "in order, nothing lost"
	if !r.Clean() {
		verdict = fmt.Sprintf("%d VIOLATIONS", r.Count)
	}
	s := fmt.Sprintf("%s: %d users, %d accepted, %d received, %d repeated after a reconnect, %d in announced gaps, %d of unknown outcome",
		verdict, r.Users, r.Accepted, r.Received, r.Duplicates, r.Gaps, r.Unknown)
	for _, v := range r.Violations {
		s += "\n  " + v
	}
	return s
}

// faults collects violations: all are counted, the first are spelled out.
type faults struct {
	mu    sync.Mutex
	kinds map[Kind]int64
	first []string
	count int64
}

func (f *faults) add(kind Kind, where, detail string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kinds == nil {
		f.kinds = map[Kind]int64{}
	}
	f.kinds[kind]++
	f.count++
	if len(f.first) < shown {
		f.first = append(f.first, string(kind)+": "+where+": "+detail)
	}
}

// Report judges everything told so far. Users without a call of Stream are
// judged by the highest seq that was accepted. It may be called again later.
func (c *Checker) Report() Report {
	var r Report
	c.each(func(u *user) {
		for conn := range u.live {
			conn.name(true)
		}
	})
	c.faults.mu.Lock()
	end := faults{kinds: maps.Clone(c.faults.kinds), first: slices.Clone(c.faults.first), count: c.faults.count}
	c.faults.mu.Unlock()
	c.each(func(u *user) {
		r.Users++
		r.Accepted += u.accepted
		r.Received += u.received
		r.Duplicates += u.repeated
		r.Gaps += u.gapped
		r.Unknown += int64(len(u.open) + len(u.unknown))
		u.judge(func(kind Kind, format string, args ...any) {
			end.add(kind, "user "+u.name, fmt.Sprintf(format, args...))
		})
	})
	r.Kinds, r.Violations, r.Count = end.kinds, end.first, end.count
	return r
}

// judge checks what can only be known at the end. It changes nothing.
func (u *user) judge(fault func(kind Kind, format string, args ...any)) {
	head := u.head
	if !u.finished {
		head = max(u.maxAccepted, u.maxReceived)
	}
	for _, w := range u.wrong {
		_, late := u.late[w.id]
		_, unknown := u.unknown[w.id]
		_, open := u.open[w.id]
		switch {
		case w.id.n == w.last:
			fault(KindOrder, "publisher %d message %d was delivered twice, the second time as seq %d", w.id.publisher, w.id.n, w.seq)
		case !late && !unknown && !open:
			fault(KindOrder, "publisher %d message %d came as seq %d, after its later message %d", w.id.publisher, w.id.n, w.seq, w.last)
		}
	}
	u.account(head, fault)
	u.judgeGone(fault)
	if !u.finished {
		return
	}
	if limit := max(u.confirmed, u.expired); u.acked > limit {
		fault(KindAcked, "acked is %d in the log, clients confirmed %d", u.acked, limit)
	}
	if u.acked > head {
		fault(KindAcked, "acked is %d beyond head %d", u.acked, head)
	}
	for conn := range u.live {
		if at := conn.floor(); at < head {
			fault(KindStranded, "connection %d is live and stands at %d of %d", conn.number, at, head)
		}
	}
}

// account looks for a source of every seq and a place for every message.
func (u *user) account(head int64, fault func(kind Kind, format string, args ...any)) {
	uncertain := map[uint64]int{}
	for _, posted := range []map[id]Message{u.open, u.unknown} {
		for _, m := range posted {
			uncertain[m.Digest]++
		}
	}
	left := len(u.open) + len(u.unknown)
	empty, firstEmpty := 0, int64(0)
	for i, f := range u.flags {
		seq := u.base + int64(i) + 1
		switch {
		case f&wasAccepted != 0 && seq > head:
			fault(KindLost, "seq %d was answered 202, but the log ends at %d", seq, head)
		case f&wasAccepted != 0:
		case f&wasReceived != 0 && uncertain[u.digests[i]] > 0:
			uncertain[u.digests[i]]--
			left--
		case f&wasReceived != 0:
			fault(KindInvented, "seq %d was delivered, but nothing like it was accepted or of unknown outcome", seq)
		case seq <= head && (f&wasGapped == 0 || u.timed):
			if empty++; firstEmpty == 0 {
				firstEmpty = seq
			}
		}
		if f&wasReceived != 0 && u.finished && seq > head {
			fault(KindLost, "seq %d was delivered, but the log ends at %d", seq, head)
		}
	}
	if unnumbered := len(u.unplaced); unnumbered > 0 && (len(u.live) > 0 || u.unnumbered > head-u.base) {
		fault(KindLost, "%d messages were answered 202 and never delivered", unnumbered)
	} else {
		left += unnumbered
	}
	if beyond := head - u.top(); beyond > 0 {
		if empty += int(beyond); firstEmpty == 0 {
			firstEmpty = head - beyond + 1
		}
	}
	if empty > left {
		fault(KindLost, "%d seqs up to head %d belong to no accepted message, only %d posts are of unknown outcome; the first is %d", empty, head, left, firstEmpty)
	}
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
