package e2e

import (
	"slices"
	"testing"
	"time"

	"restante/internal/testdb"
)

// TestOnlyNotify publishes on one replica for a client of another, with the
// sweep and the delivery jobs a minute away: only a notification brings the
// messages in time.
func TestOnlyNotify(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	slow := []string{"-sweep", "5m", "-deliver-delay", "1m"}
	b := w.server(slow...)
	a := w.server(slow...) // the later one: it knows of the other from its start
	c := w.connect(b, "ann")

	const messages = 50
	p := &publisher{w: w, number: 1}
	var posted [messages + 1]time.Time
	for seq := 1; seq <= messages; seq++ {
		posted[seq] = time.Now()
		p.posts(a, "ann", 1)
		eventually(t, "the message arrives", func() bool { return len(c.messages()) == seq })
	}
	if n := b.metric("restante_wakes_total", `source="notify"`); n == 0 {
		t.Error("no notification has woken a session")
	}
	for _, source := range []string{"sweep", "job", "local"} {
		if n := b.metric("restante_wakes_total", `source="`+source+`"`); n > 0 {
			t.Errorf("%v wakes by %s", n, source)
		}
	}
	if n := a.metric("restante_notify_sent_total", `result="ok"`); n == 0 {
		t.Error("no notification was sent")
	}
	// They go along: what b reads is what it could not have heard of.
	if n := a.metric("restante_notify_sent_messages_total", ""); n != messages {
		t.Errorf("%v messages went along in notifications, want %d", n, messages)
	}
	if n := b.metric("restante_notify_received_messages_total", ""); n != messages {
		t.Errorf("%v messages came along in notifications, want %d", n, messages)
	}
	if n := b.metric("restante_reads_total", `source="log"`); n > 5 {
		t.Errorf("%v reads of the log for %d messages that came along", n, messages)
	}
	var took []time.Duration
	for _, m := range c.messages() {
		took = append(took, m.at.Sub(posted[m.Seq]))
	}
	slices.Sort(took)
	// A few milliseconds; the sweep and the jobs would take a hundred times as long.
	if took[messages/2] > 250*time.Millisecond {
		t.Error("notifications are slow")
	}
	t.Logf("from the POST on one replica to the client of another: median %v, longest %v", took[messages/2], took[messages-1])
	w.verdict()
}
