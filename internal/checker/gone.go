package checker

import (
	"slices"
	"time"
)

// giveUp notes that from..to will not come any more: a gap says so, or acked has
// moved over them though nobody has confirmed them.
func (u *user) giveUp(from, to int64, now time.Time) {
	u.grow(to)
	for seq := max(from, u.base+1); seq <= to; seq++ {
		i := seq - u.base - 1
		if u.flags[i]&wasGapped != 0 {
			continue
		}
		u.flags[i] |= wasGapped
		u.gapped++
		if u.timed {
			u.gone[seq] = now
		}
	}
	u.expired = max(u.expired, to)
	u.settle()
}

// overtaken gives up what acked has moved over without a confirmation. It does
// nothing for a user whose messages have no Until.
func (u *user) overtaken(acked int64) {
	if u.timed && acked > u.confirmed && acked <= u.top()+maxJump {
		u.giveUp(u.confirmed+1, acked, time.Now())
	}
}

// judgeGone checks that what was given up had expired by then. Of a message of
// unknown outcome that nobody has received the seq is not known: there must be one
// that had expired for each seq that nobody else accounts for.
func (u *user) judgeGone(fault func(kind Kind, format string, args ...any)) {
	uncertain := map[uint64]time.Time{}
	for _, posted := range []map[id]Message{u.open, u.unknown} {
		for _, m := range posted {
			uncertain[m.Digest] = m.Until
		}
	}
	var nameless []time.Time
	for seq, at := range u.gone {
		i := seq - u.base - 1
		until, known := u.until[seq], u.flags[i]&wasAccepted != 0
		if !known && u.flags[i]&wasReceived != 0 {
			until, known = uncertain[u.digests[i]]
			delete(uncertain, u.digests[i])
		}
		switch {
		case !known:
			nameless = append(nameless, at)
		case until.After(at):
			fault(KindLost, "seq %d was given up %s before its time", seq, until.Sub(at))
		}
	}
	for _, digest := range u.digests {
		delete(uncertain, digest) // it has its place
	}
	ends := make([]time.Time, 0, len(uncertain))
	for _, until := range uncertain {
		ends = append(ends, until)
	}
	slices.SortFunc(nameless, time.Time.Compare)
	slices.SortFunc(ends, time.Time.Compare)
	for i, at := range nameless {
		if i >= len(ends) || ends[i].After(at) {
			fault(KindLost, "%d seqs were given up that belong to no accepted message, and fewer of unknown outcome had expired", i+1)
			return
		}
	}
}
