package observe

import (
	"context"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// hastened turns minutes into seconds and hours into minutes: in "for" and in
// ranges. What is compared with a number of seconds stays as it is.
func hastened(t testing.TB) string {
	t.Helper()
	span := regexp.MustCompile(`(for: |\[)(\d+)(m|h)(\]?)`)
	return span.ReplaceAllStringFunc(readFile(t, "deploy", "prometheus", "alerts.yml"), func(found string) string {
		parts := span.FindStringSubmatch(found)
		n, err := strconv.Atoi(parts[2])
		if err != nil {
			t.Fatal(err)
		}
		if parts[3] == "h" {
			n *= 60
		}
		return parts[1] + strconv.Itoa(n) + "s" + parts[4]
	})
}

// TestLive takes away what a gateway needs and gives it back: alerts fire and
// clear, and at the end the dashboard has something to show in every panel.
func TestLive(t *testing.T) {
	w := newWorld(t)
	p := startPrometheus(t, hastened(t), w.replicas[0].admin, w.replicas[1].admin)

	w.connect(w.replicas[0], "ann", "restante.v1")
	used := w.connect(w.replicas[1], "bob").token
	ctx, stop := context.WithCancel(t.Context())
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		w.work(ctx, used)
	}()
	t.Cleanup(func() { stop(); <-worked })

	// Some fire one after the other, and need not fire together.
	fire := func(names ...string) {
		t.Helper()
		seen := map[string]bool{}
		defer func() { t.Logf("fired: %v", slices.Sorted(maps.Keys(seen))) }()
		eventually(t, "these fire: "+strings.Join(names, ", "), func() bool {
			for name := range p.firing() {
				seen[name] = true
			}
			return !slices.ContainsFunc(names, func(name string) bool { return !seen[name] })
		})
	}
	clear := func(names ...string) {
		t.Helper()
		eventually(t, "these clear: "+strings.Join(names, ", "), func() bool {
			firing := p.firing()
			return !slices.ContainsFunc(names, func(name string) bool { return firing[name] })
		})
	}

	outage := []string{"RestantePublishFailing", "RestanteConnectFailing", "RestantePostgresUnreachable", "RestanteListenerDown", "RestanteLeaseAtRisk"}
	gone := []string{"RestanteReplicaDown", "RestanteAllReplicasDown"}
	others := []string{"RestanteMessagesWaiting", "RestanteKeyringUnreadable", "RestanteUpkeepStopped", "RestanteDeliveryOverdue"}

	t.Run("all is well", func(t *testing.T) {
		eventually(t, "messages are written", func() bool {
			n, err := p.ask(`sum(rate(restante_append_to_write_seconds_count[5s])) > 0`)
			return n == 1 && err == nil
		})
		firing := p.firing()
		for _, name := range slices.Concat(outage, gone, others) {
			if firing[name] {
				t.Errorf("%s fires", name)
			}
		}
	})

	t.Run("somebody waits, and a keyring is spoilt", func(t *testing.T) {
		keys, err := os.ReadFile(w.keyring)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.keyring, []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		eve := w.connect(w.replicas[0], "eve", "restante.v1")
		eve.mu.Lock()
		eve.silent = true
		eve.mu.Unlock()
		if status := w.post(w.replicas[1], "eve", ""); status != 202 {
			t.Fatalf("post: %d", status)
		}
		w.exec(`UPDATE events SET created_at = created_at - interval '10 minutes' WHERE user_id = 'eve'`)
		w.exec(`UPDATE sessions SET connected_at = connected_at - interval '10 minutes' WHERE user_id = 'eve'`)
		w.census()
		fire("RestanteMessagesWaiting", "RestanteKeyringUnreadable")

		if err := os.WriteFile(w.keyring, keys, 0o600); err != nil {
			t.Fatal(err)
		}
		eve.speak()
		eventually(t, "eve's message is acknowledged", func() bool {
			var pending int64
			err := w.pool.QueryRow(t.Context(), `SELECT head - acked FROM streams WHERE user_id = 'eve'`).Scan(&pending)
			return err == nil && pending == 0
		})
		eve.close()
		w.census()
		clear("RestanteMessagesWaiting", "RestanteKeyringUnreadable")
	})

	t.Run("Postgres crashes", func(t *testing.T) {
		if err := w.postgres.Kill(); err != nil {
			t.Fatal(err)
		}
		fire(outage...)
		for _, r := range w.replicas {
			if status := w.request("GET", "http://"+r.admin+"/readyz", ""); status != 503 {
				t.Errorf("/readyz without Postgres: %d", status)
			}
		}
		if err := w.postgres.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		clear(outage...)
	})

	t.Run("periodic and delivery jobs are not run", func(t *testing.T) {
		w.exec(`INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at)
			VALUES ('{"user_id": "nobody"}', 'deliver', 'nobody works this queue', 1, now() - interval '10 minutes')`)
		eventually(t, "RestanteUpkeepStopped fires", func() bool {
			w.exec(`DELETE FROM census`) // the gateway may just have taken one
			return p.firing()["RestanteUpkeepStopped"]
		})
		fire("RestanteDeliveryOverdue")
		w.exec(`DELETE FROM river_job WHERE queue = 'nobody works this queue'`)
		w.census()
		clear("RestanteUpkeepStopped", "RestanteDeliveryOverdue")
	})

	t.Run("too many connections of one user", func(t *testing.T) {
		r := w.replicas[1]
		w.connect(r, "many")
		w.connect(r, "many")
		conn, _, err := websocket.Dial(t.Context(), "ws://"+r.address+"/v1/connect?token="+w.token("many"), nil)
		if err != nil {
			return // refused at once
		}
		defer conn.CloseNow()
		if _, _, err := conn.Read(t.Context()); err == nil {
			t.Error("a third connection of one user lives")
		}
	})

	t.Run("the dashboard", func(t *testing.T) { checkDashboard(t, p) })

	t.Run("replicas die", func(t *testing.T) {
		stop()
		<-worked
		w.replicas[1].kill()
		fire("RestanteReplicaDown")
		if p.firing()["RestanteAllReplicasDown"] {
			t.Error("one of two replicas is down, and RestanteAllReplicasDown fires")
		}
		w.replicas[0].kill()
		fire(gone...)
		for i, r := range w.replicas {
			w.replicas[i] = w.start(r.admin)
		}
		clear(gone...)
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
