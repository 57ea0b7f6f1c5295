package torture

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"restante/internal/checker"
	"restante/internal/coretest"
	"restante/internal/events"
	"restante/internal/testdb"
)

// TestManyPublishersOfOneUser: 100 publishers post to one user at once, over
// three replicas. The seqs are 1 … n without a hole, the client is sent them in
// that order, and each publisher's messages stand in its own order.
func TestManyPublishersOfOneUser(t *testing.T) {
	t.Parallel()
	const publishers, each = 100, 30
	url := testdb.New(t).URL
	var replicas []*coretest.Replica
	for range 3 {
		replicas = append(replicas, coretest.Start(t, coretest.Options{URL: url, DeliverDelay: time.Minute, Sweep: 5 * time.Second}))
	}
	chk := checker.New()
	conn := chk.Connect("al", checker.FromAcked)
	client := coretest.Connect(t, replicas[0], "al", coretest.ClientConfig{
		OnReceive: func(r coretest.Received) {
			if r.To > 0 {
				conn.Gap(r.Seq, r.To)
				return
			}
			m, _, _ := chk.Parse([]byte(r.Payload))
			conn.Received(r.Seq, m)
		},
		OnConfirm: conn.Confirmed,
	})

	seqs := make([][]int64, publishers)
	var posting sync.WaitGroup
	for p := range publishers {
		posting.Go(func() {
			r := rand.New(rand.NewPCG(uint64(p), 0))
			for n := range each {
				m, payload := chk.Payload(uint32(p+1), uint64(n+1), 0, 40)
				chk.Posted("al", m)
				receipts, err := replicas[r.IntN(3)].Log.Append(t.Context(), []events.Message{{
					UserID: "al", Payload: payload, Publisher: fmt.Sprint(p), TTL: time.Hour,
				}})
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				chk.Accepted("al", m, receipts[0].Seq)
				seqs[p] = append(seqs[p], receipts[0].Seq)
			}
		})
	}
	posting.Wait()

	const n = publishers * each
	given := make([]bool, n+1)
	for p, own := range seqs {
		for i, seq := range own {
			if seq < 1 || seq > n || given[seq] {
				t.Fatalf("publisher %d was given seq %d, which is out of 1 … %d or somebody else's", p, seq, n)
			}
			if i > 0 && seq < own[i-1] {
				t.Errorf("publisher %d: message %d became %d, message %d became %d", p, i, own[i-1], i+1, seq)
			}
			given[seq] = true
		}
	}
	if !client.Reaches(n, 20*time.Second) {
		t.Fatalf("the client has received %d of %d", client.Position(), n)
	}
	for i, r := range client.Received() {
		if r.Seq != int64(i+1) {
			t.Fatalf("message %d came as number %d", r.Seq, i+1)
		}
	}
	if report := chk.Report(); !report.Clean() || report.Accepted != n || report.Received != n {
		t.Error(report)
	}
}

// TestTwoDevices: two devices of one user, on two replicas, are both sent
// everything; one that confirms nothing, and then goes away, does not disturb the
// other.
func TestTwoDevices(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	// Nothing but the wakes delivers here.
	options := coretest.Options{URL: url, DeliverDelay: time.Minute, WindowSize: 1000}
	a, b, c := coretest.Start(t, options), coretest.Start(t, options), coretest.Start(t, options)
	phone := coretest.Connect(t, a, "al", coretest.ClientConfig{})
	laptop := coretest.Connect(t, b, "al", coretest.ClientConfig{Hold: func(int64) bool { return true }})

	const half = 200
	for i := range half {
		c.Post(t, "al", fmt.Sprint(i))
	}
	for name, device := range map[string]*coretest.Client{"phone": phone, "laptop": laptop} {
		if !device.Reaches(half, 10*time.Second) {
			t.Fatalf("the %s has received %d of %d", name, device.Position(), half)
		}
	}
	laptop.Disconnect()
	for i := range half {
		c.Post(t, "al", fmt.Sprint(half+i))
	}
	if !phone.Reaches(2*half, 10*time.Second) {
		t.Fatalf("the phone has received %d of %d", phone.Position(), 2*half)
	}
	if why := phone.Closed(); why != nil {
		t.Errorf("the phone was disconnected: %+v", *why)
	}
	if n := len(laptop.Received()); n != half {
		t.Errorf("the laptop received %d messages, it was there for %d", n, half)
	}
	inOrder(t, "phone", phone.Received())
	inOrder(t, "laptop", laptop.Received())
}

// inOrder checks that the messages are 1, 2, 3 … and hold what was posted as such.
func inOrder(t *testing.T, device string, received []coretest.Received) {
	t.Helper()
	for i, r := range received {
		if r.Seq != int64(i+1) || r.Payload != fmt.Sprintf(`"%d"`, i) {
			t.Fatalf("the %s's message number %d is %+v", device, i+1, r)
		}
	}
}
