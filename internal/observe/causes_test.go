package observe

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// causes are those that can be had at the same time: some alerts take half a
// minute to fire.
//
// The first replica and its scrapes are left in peace, so that what it says of
// Postgres has no gaps; connections and tokens trouble the second.
func (w *world) causes() []cause {
	return []cause{
		{"the keyring is spoilt", []string{"RestanteKeyringUnreadable"}, w.spoilKeyring},
		{"somebody waits", []string{"RestanteMessagesWaiting"}, w.keepWaiting},
		{"a delivery job is not run", []string{"RestanteDeliveryOverdue"}, w.strandJob},
		{"lanes cannot be settled", []string{"RestanteDeliveryJobsFailing"}, w.breakLanes},
		{"trim fails", []string{"RestanteUpkeepFailing"}, w.breakTrim},
		{"a transaction is forgotten", []string{"RestanteOldTransaction", "RestanteDeadRows"}, w.forgetTransaction},
		{"a listener does not read", []string{"RestanteNotificationQueue"}, w.ignoreNotifications},
		{"redeeming is slow", []string{"RestantePoolExhausted"}, w.slowRedeem},
		{"clients acknowledge nothing, and come back", []string{"RestanteClientsNotAcknowledging", "RestanteSessionChurn"}, w.comeAndGo},
		{"connections lie idle", []string{"RestanteConnectionsNearMax"}, w.lieIdle},
		{"Postgres writes slowly", []string{"RestanteAppendSlow", "RestanteDeliverySlow"}, w.writeSlowly},
	}
}

func (w *world) spoilKeyring() (end func()) {
	keys, err := os.ReadFile(w.keyring)
	if err != nil {
		w.t.Fatal(err)
	}
	write := func(text []byte) {
		if err := os.WriteFile(w.keyring, text, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	write([]byte("{"))
	return func() { write(keys) }
}

// keepWaiting: eve receives a message and says nothing.
func (w *world) keepWaiting() (end func()) {
	eve := w.connect(w.replicas[0], "eve", "restante.v1")
	eve.hush()
	w.accepted(w.replicas[1], "eve")
	w.accepted(w.replicas[1], "after eve") // the newest message a replica knows must stay as it is
	w.exec(`UPDATE events SET created_at = created_at - interval '10 minutes' WHERE user_id = 'eve'`)
	w.exec(`UPDATE sessions SET connected_at = connected_at - interval '10 minutes' WHERE user_id = 'eve'`)
	w.census()
	return func() {
		eve.speak()
		w.holds("eve's message is acknowledged", `SELECT head = acked FROM streams WHERE user_id = 'eve'`)
		eve.close()
		w.census()
	}
}

func (w *world) strandJob() (end func()) {
	w.exec(`INSERT INTO river_job (args, kind, queue, max_attempts, scheduled_at)
		VALUES ('{"user_id": "nobody"}', 'deliver', 'nobody works this queue', 1, now() - interval '10 minutes')`)
	return func() { w.exec(`DELETE FROM river_job WHERE queue = 'nobody works this queue'`) }
}

// breakLanes makes Postgres refuse to settle the lanes of ten users, whose jobs try
// again every second. A lock would do it as well, and fill the pools.
func (w *world) breakLanes() (end func()) {
	w.exec(`ALTER TABLE streams ADD CONSTRAINT broken CHECK (user_id NOT LIKE 'broken-%' OR lane = 1) NOT VALID;
		INSERT INTO streams (user_id, lane) SELECT 'broken-' || n, 1 FROM generate_series(1, 10) n;
		INSERT INTO river_job (args, kind, queue, max_attempts)
		SELECT jsonb_build_object('user_id', 'broken-' || n), 'deliver', 'deliver', 30000 FROM generate_series(1, 10) n`)
	return func() { w.exec(`ALTER TABLE streams DROP CONSTRAINT broken`) }
}

// breakTrim: minutes are seconds here, so a trim a minute is one every half second.
func (w *world) breakTrim() (end func()) {
	w.exec(`ALTER TABLE meta ADD CONSTRAINT broken CHECK (false) NOT VALID`)
	stop := w.repeat(1, func(ctx context.Context, _ int) {
		_, _ = w.pool.Exec(ctx, trimJob+`; SELECT pg_sleep(0.5)`)
	})
	return func() {
		stop()
		w.exec(`ALTER TABLE meta DROP CONSTRAINT broken`)
	}
}

// trimJob is one more than the leader's own, which comes once a minute.
const trimJob = `INSERT INTO river_job (args, kind, queue, max_attempts) VALUES ('{}', 'trim', 'default', 1)`

// forgetTransaction: vacuum cannot remove what was deleted since it began. When it
// ends, autovacuum can.
func (w *world) forgetTransaction() (end func()) {
	forgotten := w.dial()
	must(w.t, forgotten, `BEGIN; SELECT txid_current()`)
	w.exec(`INSERT INTO tokens SELECT 'dead-' || n, now() + interval '1 day' FROM generate_series(1, 120000) n`)
	w.exec(`DELETE FROM tokens WHERE jti LIKE 'dead-%'`)
	return func() { must(w.t, forgotten, `ROLLBACK`) }
}

// ignoreNotifications: who listens and stays in a transaction reads nothing. A
// notification of this size takes a page of the queue of a million pages.
func (w *world) ignoreNotifications() (end func()) {
	deaf := w.dial()
	must(w.t, deaf, `LISTEN nobody`) // it listens when this is committed
	must(w.t, deaf, `BEGIN`)
	w.exec(`SELECT count(pg_notify('somebody', repeat('.', 7900) || n)) FROM generate_series(1, 6000) n`)
	return func() { must(w.t, deaf, `ROLLBACK`) }
}

// slowRedeem: more clients try to connect than there are connections to Postgres.
// Their token was used, so each tries and goes.
func (w *world) slowRedeem() (end func()) {
	first := w.connect(w.replicas[1], "sue")
	w.exec(`CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END';
		CREATE TRIGGER slow BEFORE DELETE ON tokens FOR EACH STATEMENT EXECUTE FUNCTION slow()`)
	stop := w.repeat(relaxedConns+4, func(context.Context, int) { w.tryToConnect(w.replicas[1], first.token) })
	return func() {
		stop()
		w.exec(`DROP TRIGGER slow ON tokens; DROP FUNCTION slow`)
	}
}

// comeAndGo: forty users have a message that they do not acknowledge.
func (w *world) comeAndGo() (end func()) {
	name := func(i int) string { return fmt.Sprint("silent-", i) }
	const users = 40
	for i := range users {
		w.accepted(w.replicas[0], name(i))
	}
	return w.repeat(users, func(ctx context.Context, i int) {
		c, err := w.tryConnect(ctx, w.replicas[1], name(i), &client{silent: true}, "restante.v1")
		if err != nil {
			return
		}
		select {
		case <-c.done:
		case <-ctx.Done():
		}
		c.close()
	})
}

// sayNothing takes nearly all of a replica's connections, has one request answered on
// each, and keeps them.
func (w *world) sayNothing() (end func()) {
	conns := make([]net.Conn, 0, maxConnections)
	leave := func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	w.t.Cleanup(leave)
	for range maxConnections * 95 / 100 {
		c, err := net.Dial("tcp", w.replicas[1].address)
		if err != nil {
			w.t.Fatal(err)
		}
		conns = append(conns, c)
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: gateway\r\n\r\n"); err != nil {
			w.t.Fatal(err)
		}
	}
	return leave
}

func (w *world) lieIdle() (end func()) {
	var missing int
	if err := w.pool.QueryRow(w.t.Context(), `SELECT ceil(0.91 * current_setting('max_connections')::int) - count(*)
		FROM pg_stat_activity WHERE backend_type = 'client backend'`).Scan(&missing); err != nil {
		w.t.Fatal(err)
	}
	idle := make([]*pgx.Conn, missing)
	var dials errgroup.Group
	dials.SetLimit(16)
	for i := range idle {
		dials.Go(func() (err error) {
			idle[i], err = pgx.Connect(w.t.Context(), w.url)
			return err
		})
	}
	leave := func() {
		for _, conn := range idle {
			if conn != nil {
				_ = conn.Close(context.Background()) // it has done nothing
			}
		}
	}
	w.t.Cleanup(leave)
	if err := dials.Wait(); err != nil {
		w.t.Fatal(err)
	}
	return leave
}

// writeSlowly: every append takes as long as on a disk that is nearly full. A locked
// table would not do: appends that wait for a lock are set aside, and their messages
// begin to count when it is free.
func (w *world) writeSlowly() (end func()) {
	w.exec(`CREATE FUNCTION be_slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1.3); RETURN NULL; END'`)
	w.exec(`CREATE TRIGGER be_slow AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION be_slow()`)
	return func() {
		w.exec(`DROP TRIGGER be_slow ON events`)
		w.exec(`DROP FUNCTION be_slow()`)
	}
}

// loseCensus: none is taken in time, for the gateway's own come once a minute.
func (w *world) loseCensus() (end func()) {
	stop := w.repeat(1, func(ctx context.Context, _ int) {
		_, _ = w.pool.Exec(ctx, `DELETE FROM census; SELECT pg_sleep(0.1)`)
	})
	return func() { stop(); w.census() }
}

func (w *world) crashPostgres() (end func()) {
	if err := w.postgres.Kill(); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		for _, r := range w.replicas {
			if status := w.request("GET", "http://"+r.admin+"/readyz", ""); status != 503 {
				w.t.Errorf("/readyz without Postgres: %d", status)
			}
		}
		if err := w.postgres.Start(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
	}
}

// repeat does something again and again, n times at once, until it is ended.
func (w *world) repeat(n int, do func(ctx context.Context, i int)) (end func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for ctx.Err() == nil {
				do(ctx, i)
			}
		})
	}
	end = func() { cancel(); all.Wait() }
	w.t.Cleanup(end)
	return end
}

func must(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// dial opens a connection to Postgres for this test.
func (w *world) dial() *pgx.Conn {
	w.t.Helper()
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close(context.Background()) }) // closed already, or it does not matter any more
	return conn
}
