package e2e

import (
	"context"
	"net/http"
	"strconv"
	"testing"
	"time"

	"restante/internal/devstack"
	"restante/internal/testdb"
)

// TestPostgresGoesAndComesBack takes Postgres away under two running replicas,
// in order and as a crash would (which empties the unlogged tables: sessions,
// leases, tokens). Meanwhile a POST is answered 503 with Retry-After and the
// sockets stay; afterwards all resumes by itself, on the same sockets.
func TestPostgresGoesAndComesBack(t *testing.T) {
	parallel(t)
	cluster := testdb.Cluster(t)
	w := newWorld(t, testdb.Migrated(t, cluster))
	a, b := w.server(), w.server()
	ann, bob := w.connect(a, "ann"), w.connect(b, "bob")
	p := &publisher{w: w, number: 1}
	p.posts(a, "ann", 3)
	p.posts(a, "bob", 3)

	for name, stop := range map[string]func() error{
		"stopped": func() error { return cluster.Stop(t.Context()) },
		"killed":  cluster.Kill,
	} {
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*server{a, b} {
			for range 5 {
				unavailable(t, p, s)
			}
			eventually(t, "/readyz says so", func() bool { return s.readyz() == http.StatusServiceUnavailable })
		}
		comesBack(t, cluster)
		for _, s := range []*server{a, b} {
			eventually(t, "messages are accepted again", func() bool {
				_, ok, err := p.post(t.Context(), s, "ann")
				if err != nil {
					t.Fatal(err)
				}
				return ok
			})
			p.posts(s, "ann", 2)
			p.posts(s, "bob", 2)
		}
		eventually(t, "everything arrives", func() bool { return w.check.Waiting() == 0 })
		for _, s := range []*server{a, b} {
			eventually(t, "a replica is ready again", func() bool { return s.readyz() == http.StatusOK })
		}
		if !ann.alive() || !bob.alive() {
			t.Fatalf("%s: a socket was closed", name)
		}
	}
	// New connections, too: with a new token, for the old ones are gone.
	w.connect(b, "ann")
	w.verdict()
}

// unavailable posts while there is no Postgres.
func unavailable(t *testing.T, p *publisher, s *server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a, ok, err := p.post(ctx, s, "ann")
	if ok || err != nil {
		t.Fatalf("without Postgres a message was answered %d %s %v", a.status, a.body, err)
	}
	a.problem(t, http.StatusServiceUnavailable)
	if after, err := strconv.Atoi(a.header.Get("Retry-After")); err != nil || after < 1 {
		t.Errorf("Retry-After: %q", a.header.Get("Retry-After"))
	}
}

func comesBack(t *testing.T, cluster *devstack.Postgres) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := cluster.Start(ctx); err != nil {
		t.Fatal(err)
	}
}
