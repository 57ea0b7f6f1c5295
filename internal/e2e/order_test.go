package e2e

import (
	"sync"
	"testing"

	"restante/internal/testdb"
)

// TestTwoDevicesHundredPublishers: everybody posts to one user at the same time,
// over three replicas; two devices on two replicas get every message, numbered
// without a hole, in that order and with each publisher's own order kept. Then
// one device goes away, which is nothing to the other.
func TestTwoDevicesHundredPublishers(t *testing.T) {
	parallel(t)
	const publishers, each = 100, 5
	w := newWorld(t, testdb.New(t).URL)
	replicas := []*server{w.server(), w.server(), w.server()}
	phone, laptop := w.connect(replicas[0], "ann"), w.connect(replicas[1], "ann")

	all := make([]*publisher, publishers)
	everybodyPosts := func() {
		t.Helper()
		var group sync.WaitGroup
		for i, p := range all {
			group.Go(func() {
				for j := range each {
					if a, ok, err := p.post(t.Context(), replicas[(i+j)%3], "ann"); !ok {
						t.Errorf("publisher %d: %d %s %v", i, a.status, a.body, err)
						return
					}
				}
			})
		}
		group.Wait()
	}
	for i := range all {
		all[i] = &publisher{w: w, number: uint32(i + 1)}
	}
	everybodyPosts()
	for name, device := range map[string]*client{"phone": phone, "laptop": laptop} {
		eventually(t, name+" has everything", func() bool { return len(device.messages()) >= publishers*each })
		for i, m := range device.messages() {
			if m.Seq != int64(i+1) {
				t.Fatalf("%s: message %d has seq %d", name, i+1, m.Seq)
			}
		}
	}

	phone.drop()
	everybodyPosts()
	eventually(t, "the laptop has everything", func() bool { return len(laptop.messages()) == 2*publishers*each })
	if !laptop.alive() {
		t.Error("the laptop lost its connection when the phone went away")
	}
	if report := w.verdict(); report.Accepted != 2*publishers*each {
		t.Errorf("%d accepted", report.Accepted)
	}
}
