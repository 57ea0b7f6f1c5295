package observe

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// hastened turns minutes into seconds and hours into minutes: in "for", in ranges,
// and in the age of a transaction, which alone of all ages cannot be set back. What
// else is compared with a number of seconds stays as it is. The bound of the queue
// of notifications shrinks as well: it has 8 GB.
func hastened(t testing.TB) string {
	t.Helper()
	span := regexp.MustCompile(`(for: |\[)(\d+)(m|h)`)
	rules := span.ReplaceAllStringFunc(readFile(t, "deploy", "prometheus", "alerts.yml"), func(found string) string {
		parts := span.FindStringSubmatch(found)
		n, err := strconv.Atoi(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		if parts[3] == "h" {
			n *= 60
		}
		return parts[1] + strconv.Itoa(n) + "s"
	})
	for _, bound := range []string{"oldest_transaction_seconds) > 900", "notification_queue_fullness) > 0.25"} {
		if strings.Count(rules, bound) != 1 {
			t.Fatalf("no alert says %s any more", bound)
		}
		rules = strings.Replace(rules, bound, bound+" / 60", 1)
	}
	return rules
}

// TestLive makes trouble and mends it: every alert fires and clears, and at the end
// the dashboard has something to show in every panel.
func TestLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	admins := []string{w.replicas[0].admin, w.replicas[1].admin}
	p := startPrometheus(t, hastened(t), admins...)
	alerts := &watch{p, map[string]bool{}}

	w.connect(w.replicas[0], "ann", "restante.v1")
	used := w.connect(w.replicas[1], "bob").token
	ctx, stop := context.WithCancel(t.Context())
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		w.work(ctx, used)
	}()
	t.Cleanup(func() { stop(); <-worked })

	step := func(name string, do func(*testing.T)) {
		if !t.Failed() { // what was not mended would only fail again
			t.Run(name, do)
		}
	}
	step("all is well", func(t *testing.T) {
		eventually(t, "messages are written", func() bool {
			n, err := p.ask(`sum(rate(restante_append_to_write_seconds_count[5s])) > 0`)
			return n == 1 && err == nil
		})
		if firing := p.firing(); len(firing) > 0 {
			t.Errorf("these fire: %v", slices.Sorted(maps.Keys(firing)))
		}
	})
	step("a message's time is up", func(t *testing.T) {
		if status := w.postBody(w.replicas[0], `{"userId":"late","message":"soon gone","ttl":1}`); status != 202 {
			t.Fatalf("post: %d", status)
		}
		w.holds("it expires", `SELECT NOT EXISTS (SELECT FROM events WHERE user_id = 'late' AND expires_at > now())`)
		w.exec(trimJob)
		alerts.fire(t, "RestanteMessagesExpired")
	})
	step("the log has another epoch", func(t *testing.T) {
		w.exec(`UPDATE meta SET epoch = 'another'`)
		alerts.fire(t, "RestanteEpochChanged")
		// Its connections have ended, and clients of tests do not come back by themselves.
		for i, user := range []string{"ann", "bob"} {
			eventually(t, user+" connects again", func() bool {
				c, err := w.tryConnect(w.t.Context(), w.replicas[i], user, &client{}, "restante.v1")
				if err == nil {
					w.t.Cleanup(c.close)
				}
				return err == nil
			})
		}
	})
	step("everything at once", func(t *testing.T) { alerts.undergo(t, w.causes()...) })
	// By itself: connections that come and go push out those that say nothing.
	step("a replica is full", func(t *testing.T) {
		alerts.undergo(t, cause{"clients say nothing", []string{"RestanteReplicaFull"}, w.sayNothing})
	})
	step("periodic jobs are not run", func(t *testing.T) {
		alerts.undergo(t, cause{"no census", []string{"RestanteUpkeepStopped"}, w.loseCensus})
	})
	step("Postgres crashes", func(t *testing.T) {
		alerts.undergo(t, cause{"outage", []string{
			"RestantePublishFailing", "RestanteConnectFailing", "RestantePostgresUnreachable", "RestanteListenerDown", "RestanteLeaseAtRisk",
		}, w.crashPostgres})
	})
	step("too many connections of one user", func(t *testing.T) {
		w.connect(w.replicas[1], "many")
		w.connect(w.replicas[1], "many")
		third, err := w.tryConnect(t.Context(), w.replicas[1], "many", &client{})
		if err != nil {
			return // refused at once
		}
		defer third.close()
		select {
		case <-third.done:
		case <-time.After(patience):
			t.Error("a third connection of one user lives")
		}
	})
	step("the dashboard", func(t *testing.T) { checkDashboard(t, p) })
	step("an hour after the message expired", func(t *testing.T) { alerts.clear(t, "RestanteMessagesExpired") })
	step("replicas die", func(t *testing.T) {
		stop()
		<-worked
		w.replicas[1].kill()
		alerts.fire(t, "RestanteReplicaDown", "RestanteReplicaMissing")
		p.scrape(t, admins[0]) // as when a container has left the DNS
		alerts.clear(t, "RestanteReplicaDown")
		if firing := p.firing(); !firing["RestanteReplicaMissing"] || firing["RestanteAllReplicasDown"] {
			t.Errorf("one of two replicas has gone, and these fire: %v", slices.Sorted(maps.Keys(firing)))
		}
		w.replicas[1] = w.start(admins[1], time.Minute)
		p.scrape(t, admins...)
		alerts.clear(t, "RestanteReplicaMissing")

		for _, r := range w.replicas {
			r.kill()
		}
		alerts.fire(t, "RestanteReplicaDown", "RestanteAllReplicasDown")
		for i, admin := range admins {
			w.replicas[i] = w.start(admin, time.Minute)
		}
	})
	step("all is well again", func(t *testing.T) {
		names := alertNames(t)
		alerts.clear(t, names...)
		if never := slices.DeleteFunc(names, func(name string) bool { return alerts.fired[name] }); len(never) > 0 {
			t.Errorf("nothing has made these fire: %v", never)
		}
	})
}

// checkDashboard evaluates every expression over the run, and compares what the
// dashboard and the alerts ask for with what the replicas have.
func checkDashboard(t *testing.T, p *prometheus) {
	all := map[string]demand{}
	for name, queries := range dashboardQueries(t) {
		for _, q := range queries {
			var n int
			var err error
			// "> 0" hides what is zero, and may hide all.
			enough := func() bool { n, err = p.ask(q); return err == nil && (n > 0 || strings.HasSuffix(q, "> 0")) }
			for deadline := time.Now().Add(5 * time.Second); !enough() && time.Now().Before(deadline); {
				<-time.After(250 * time.Millisecond)
			}
			if !enough() {
				t.Errorf("%s: %s has %d series, %v", name, q, n, err)
			}
			if expr := parse(t, q); expr != nil {
				demands(expr, all)
			}
		}
	}
	rules := p.rules()
	if len(rules) != len(alertNames(t)) {
		t.Errorf("Prometheus has %d rules, the file %d", len(rules), len(alertNames(t)))
	}
	for _, r := range rules {
		if r.Health != "ok" || r.LastError != "" {
			t.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s has severity %q", r.Name, r.Labels["severity"])
		}
		for _, what := range []string{"summary", "description", "runbook"} {
			if r.Annotations[what] == "" {
				t.Errorf("%s has no %s", r.Name, what)
			}
		}
		if expr := parse(t, r.Query); expr != nil {
			demands(expr, all)
		}
	}
	source := goSource(t)
	for metric, d := range all {
		d.check(t, metric, p.labels(metric), source)
	}
}
