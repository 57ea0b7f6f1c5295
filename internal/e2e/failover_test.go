package e2e

import (
	"context"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"restante/internal/devstack"
	"restante/internal/testdb"
)

// pair is a primary and its standby.
type pair struct {
	t                *testing.T
	primary, standby *devstack.Postgres
	standbyURL       string
}

func newPair(t *testing.T) *pair {
	primary := testdb.ReplicatedCluster(t)
	testdb.Migrated(t, primary)
	standby := testdb.Standby(t, primary)
	return &pair{t: t, primary: primary, standby: standby, standbyURL: standby.URL("restante")}
}

// execOn runs statements on a server.
func execOn(t *testing.T, server *devstack.Postgres, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL("restante"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// streams returns head and acked of each user, as a server has them now.
func streams(t *testing.T, server *devstack.Postgres) map[string][2]int64 {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server.URL("restante"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, err := conn.Query(t.Context(), `SELECT user_id, head, acked FROM streams`)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][2]int64{}
	var user string
	var head, acked int64
	if _, err := pgx.ForEachRow(rows, []any{&user, &head, &acked}, func() error {
		found[strings.Clone(user)] = [2]int64{head, acked}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// proxy is a virtual address of Postgres that moves from one server to the other.
type proxy struct {
	listener net.Listener
	target   atomic.Pointer[string] // path of a socket
}

func newProxy(t *testing.T, to *devstack.Postgres) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p := &proxy{listener: l}
	p.move(t, to)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.carry(conn)
		}
	}()
	return p
}

func (p *proxy) move(t *testing.T, to *devstack.Postgres) {
	t.Helper()
	u, err := url.Parse(to.URL("restante"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port"))
	p.target.Store(&path)
}

func (p *proxy) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("unix", *p.target.Load())
	if err != nil {
		return
	}
	defer far.Close()
	go func() { _, _ = io.Copy(far, near); far.Close() }()
	_, _ = io.Copy(near, far)
}

func (p *proxy) url() string {
	return "postgres://postgres@" + p.listener.Addr().String() + "/restante?sslmode=disable"
}

// TestPromotionOfALaggingStandby: the primary dies while its standby lacks the newest
// messages, and the standby is promoted under load. For a while the address still
// leads to the dead server. Whatever is answered 202 afterwards reaches its user's
// client, and clients are told that what they know may be void.
func TestPromotionOfALaggingStandby(t *testing.T) {
	parallel(t)
	servers := newPair(t)
	address := newProxy(t, servers.primary)
	w := newWorld(t, address.url())
	h := newHistories(w, []*server{w.server(), w.server(), w.server()}, 24)
	stop := h.run(true)
	eventually(t, "messages flow", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.accepted) > 300 })
	execOn(t, servers.standby, `ALTER SYSTEM SET primary_conninfo = ''`, `SELECT pg_reload_conf()`)
	had := len(h.contents)
	eventually(t, "the standby lags", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.contents) > had+300 })

	h.phase.Store(between)
	if err := servers.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	for user, at := range streams(t, servers.standby) {
		h.begins(user, at[0], at[1])
	}
	close(h.began)
	h.phase.Store(after)
	execOn(t, servers.standby, `SELECT pg_promote()`)
	<-time.After(3 * time.Second) // the address still leads to the dead server
	for _, s := range h.servers {
		if s.readyz() == 200 {
			t.Error("a replica is ready without a server")
		}
	}
	address.move(t, servers.standby)
	eventually(t, "messages flow again", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.after > 600 })
	stopReading := stop()
	if lost := h.verdict(servers.standbyURL); lost == 0 {
		t.Error("the standby did not lag")
	}
	h.isTold(func(i int) bool { return i%2 == 0 })
	for _, s := range h.servers {
		eventually(t, "a replica is ready", func() bool { return s.readyz() == 200 })
	}
	stopReading()
}

// TestPromotionOfASynchronousStandby: nothing that was answered 202 is lost. The
// replicas find the new primary by themselves, among several hosts.
func TestPromotionOfASynchronousStandby(t *testing.T) {
	parallel(t)
	servers := newPair(t)
	execOn(t, servers.primary, `ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`)
	w := newWorld(t, bothHosts(t, servers.primary, servers.standby))
	h := newHistories(w, []*server{w.server(), w.server(), w.server()}, 24)
	stop := h.run(true)
	eventually(t, "messages flow", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.accepted) > 600 })

	h.phase.Store(between)
	if err := servers.primary.Kill(); err != nil {
		t.Fatal(err)
	}
	execOn(t, servers.standby, `ALTER SYSTEM RESET synchronous_standby_names`, `ALTER SYSTEM SET primary_conninfo = ''`, `SELECT pg_reload_conf()`)
	eventually(t, "the standby has replayed what it received", func() bool {
		var done bool
		conn, err := pgx.Connect(t.Context(), servers.standbyURL)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.WithoutCancel(t.Context()))
		err = conn.QueryRow(t.Context(), `SELECT pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn() AND NOT EXISTS (SELECT FROM pg_stat_wal_receiver)`).Scan(&done)
		return err == nil && done
	})
	for user, at := range streams(t, servers.standby) {
		h.begins(user, at[0], at[1])
	}
	close(h.began)
	h.phase.Store(after)
	execOn(t, servers.standby, `SELECT pg_promote()`)
	eventually(t, "messages flow again", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return h.after > 600 })
	stopReading := stop()
	if lost := h.verdict(servers.standbyURL); lost > 0 {
		t.Errorf("%d messages are lost", lost)
	}
	h.isTold(func(i int) bool { return i%2 == 0 })
	stopReading()
}

// bothHosts is a database URL with two hosts.
func bothHosts(t *testing.T, a, b *devstack.Postgres) string {
	t.Helper()
	var hosts, ports []string
	for _, server := range []*devstack.Postgres{a, b} {
		u, err := url.Parse(server.URL("restante"))
		if err != nil {
			t.Fatal(err)
		}
		hosts, ports = append(hosts, u.Query().Get("host")), append(ports, u.Query().Get("port"))
	}
	return "postgres://postgres@/restante?host=" + strings.Join(hosts, ",") + "&port=" + strings.Join(ports, ",")
}
