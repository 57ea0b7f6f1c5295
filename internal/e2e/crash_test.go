package e2e

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"restante/internal/testdb"
)

// TestAcceptedIsOnDisk kills a replica while publishers wait for their answers:
// what was answered 202 is delivered by another replica, in order.
func TestAcceptedIsOnDisk(t *testing.T) {
	parallel(t)
	const publishers, users, enough = 8, 3, 300
	w := newWorld(t, testdb.Migrated(t, testdb.Cluster(t)))
	a, b := w.server(), w.server()
	// One user is connected to the replica that dies, the others to none: its
	// session is still in the database when it connects to the other replica.
	connected := w.follow("user-0", a, b)

	var accepted atomic.Int64
	reached := make(chan struct{})
	var group sync.WaitGroup
	for i := range publishers {
		group.Go(func() {
			p := &publisher{w: w, number: uint32(i + 1)}
			for {
				_, ok, err := p.post(t.Context(), a, fmt.Sprint("user-", p.n%users))
				if err != nil {
					return // the replica is gone
				}
				if ok && accepted.Add(1) == enough {
					close(reached)
				}
			}
		})
	}
	// Right behind an answer, while others are on their way.
	<-reached
	a.signal(syscall.SIGKILL)
	group.Wait()
	a.ends(-1)

	for i := range users {
		w.connect(b, fmt.Sprint("user-", i))
	}
	eventually(t, "the user is connected again", func() bool { return connected.current() != connected.first && connected.current().alive() })
	// What was on its way may be committed after its user has connected, by a replica
	// that is dead and tells nobody: the sweep finds it.
	pool := w.pool()
	eventually(t, "what nobody was answered for has arrived", func() bool {
		var pending int
		if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM streams WHERE head > acked").Scan(&pending); err != nil {
			t.Fatal(err)
		}
		return pending == 0
	})
	report := w.verdict()
	if report.Accepted < enough || report.Received < report.Accepted {
		t.Errorf("accepted %d, received %d", report.Accepted, report.Received)
	}
}
