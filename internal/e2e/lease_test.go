package e2e

import (
	"syscall"
	"testing"

	"restante/internal/testdb"
)

// lateSQL holds up heartbeats behind an advisory lock, as a slow network would:
// whether their sender still waits for them or not, they are carried out.
const lateSQL = `
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 SET statement_timeout = 0 AS $$
BEGIN
	BEGIN
		PERFORM pg_advisory_xact_lock(1);
	EXCEPTION WHEN query_canceled THEN
		PERFORM pg_advisory_xact_lock(1);
	END;
	RETURN NEW;
END $$;
CREATE TRIGGER late BEFORE INSERT ON replicas FOR EACH ROW EXECUTE FUNCTION late()`

// TestStopLeavesNoLease stops a replica while a heartbeat of it is on its way: it
// must not bring back the lease that the replica gives up at its end.
func TestStopLeavesNoLease(t *testing.T) {
	parallel(t)
	db := testdb.New(t)
	w := newWorld(t, db.URL)
	s := w.server("-lease", "20s") // a heartbeat every 5 s, which may take 5
	if _, err := db.Pool.Exec(t.Context(), lateSQL); err != nil {
		t.Fatal(err)
	}
	holder, err := db.Pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Release()
	if _, err := holder.Exec(t.Context(), `SELECT pg_advisory_lock(1)`); err != nil {
		t.Fatal(err)
	}
	count := func(sql string) (n int) {
		if err := db.Pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const signals = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'restante signals'`
	eventually(t, "a heartbeat is on its way", func() bool { return count(signals+` AND wait_event = 'advisory'`) == 1 })
	s.signal(syscall.SIGTERM)
	eventually(t, "all else has ended", func() bool { return count(signals) == 1 })
	if _, err := holder.Exec(t.Context(), `SELECT pg_advisory_unlock(1)`); err != nil {
		t.Fatal(err)
	}
	s.ends(0)
	eventually(t, "the heartbeat has arrived", func() bool { return count(signals) == 0 })
	if n := count(`SELECT count(*) FROM replicas`); n != 0 {
		t.Errorf("%d leases are left", n)
	}
}
