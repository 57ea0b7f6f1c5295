package torture

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// rest waits until everything has come to rest, with nothing posted any more:
// connected users have everything, have confirmed it, and their lanes are idle;
// the lanes of the others are owed nothing.
func (w *world) rest(within time.Duration) {
	w.calm.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var unrest []string
	for {
		for _, l := range w.links() {
			l.catchUp()
		}
		rows, err := w.snapshot(ctx)
		if err != nil {
			unrest = append(unrest, err.Error())
			break
		}
		if unrest = w.unrest(rows); len(unrest) == 0 {
			return
		}
		if !pause(100*time.Millisecond, ctx.Done()) {
			break
		}
	}
	w.violate("no rest within %s: %d users, for example %v", within, len(unrest), unrest[:min(len(unrest), 5)])
}

// unrest returns what is still to happen.
func (w *world) unrest(rows []row) (what []string) {
	byUser := map[string]row{}
	for _, r := range rows {
		byUser[r.User] = r
	}
	for _, u := range w.users {
		r := byUser[u.name]
		online := false
		for _, d := range u.devices {
			if !d.wanted.Load() {
				continue
			}
			online = true
			l := d.link()
			if l == nil {
				what = append(what, fmt.Sprintf("%s is not connected", u.name))
				continue
			}
			if last, _, _ := l.state(); last < r.Head {
				what = append(what, fmt.Sprintf("%s has received %d of %d", u.name, last, r.Head))
			}
		}
		switch {
		case online && r.Acked < r.Head:
			what = append(what, fmt.Sprintf("%s has confirmed %d of %d", u.name, r.Acked, r.Head))
		case online && r.Lane != 0:
			what = append(what, fmt.Sprintf("%s is online and has lane %d", u.name, r.Lane))
		case r.Lane == 1:
			what = append(what, fmt.Sprintf("%s is offline and has lane 1", u.name))
		}
	}
	if n := w.chk.Waiting(); n > 0 {
		what = append(what, fmt.Sprintf("%d messages have yet to arrive", n))
	}
	return what
}

// presence waits until the session rows of living replicas are exactly the live
// sessions.
func (w *world) presence(within time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		want := map[string]bool{}
		for _, l := range w.links() {
			want[l.session.ID()] = true
		}
		rows, _ := w.pool.Query(ctx, `SELECT session_id FROM sessions JOIN replicas r USING (replica_id)
			WHERE r.heartbeat_at > now() - $1::interval`, w.lease())
		have, err := pgx.CollectRows(rows, pgx.RowTo[string])
		extra := 0
		for _, id := range have {
			if !want[id] {
				extra++
			}
			delete(want, id)
		}
		if err == nil && extra == 0 && len(want) == 0 {
			return
		}
		if !pause(100*time.Millisecond, ctx.Done()) {
			w.violate("after %s %d live sessions have no row, %d rows have no session (%v)", within, len(want), extra, err)
			return
		}
	}
}

func (w *world) lease() time.Duration {
	if w.options.Lease > 0 {
		return w.options.Lease
	}
	return 12 * time.Second
}

// audit reads the log from beginning to end, as one more client would, and lets
// the checker judge all it has been told. It is the last thing to do.
func (w *world) audit() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	rows, err := w.snapshot(ctx)
	if err != nil {
		w.violate("the audit cannot see: %v", err)
		return
	}
	for _, r := range rows {
		if err := w.auditUser(ctx, r); err != nil {
			w.violate("the audit of user %s failed: %v", r.User, err)
		}
	}
	report := w.chk.Report()
	w.t.Log(report)
	w.mu.Lock()
	for _, what := range slices.Sorted(maps.Keys(w.counts)) {
		w.t.Logf("%8d %s", w.counts[what], what)
	}
	w.mu.Unlock()
	if !report.Clean() {
		w.violate("the checker found %d violations", report.Count)
	}
}

func (w *world) auditUser(ctx context.Context, r row) error {
	w.chk.Stream(r.User, r.Head, r.Acked)
	conn := w.chk.Connect(r.User, 0)
	defer conn.Closed()
	rows, err := w.pool.Query(ctx, `SELECT seq, payload FROM events WHERE user_id = $1 ORDER BY seq`, r.User)
	if err != nil {
		return err
	}
	var seq int64
	var payload []byte
	next := int64(1)
	missing := func(to int64) {
		if next <= to {
			conn.Gap(next, to)
		}
	}
	_, err = pgx.ForEachRow(rows, []any{&seq, &payload}, func() error {
		missing(seq - 1)
		if seq <= r.Acked && !w.chk.Seen(r.User, seq) {
			w.violate("user %s: %d of %d acked would be reported delivered, and no client has received it", r.User, seq, r.Acked)
		}
		m, _, _ := w.chk.Parse(payload)
		conn.Received(seq, m)
		next = seq + 1
		return nil
	})
	missing(r.Head)
	if next > r.Head+1 {
		err = fmt.Errorf("the log goes to %d, head is %d", next-1, r.Head)
	}
	return err
}
