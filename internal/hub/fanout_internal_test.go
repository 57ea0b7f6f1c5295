package hub

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"restante/internal/events"
)

// inFanoutBubble runs a test on a Fanout that has a peer and no Postgres: its
// payloads are noted, and cost no time.
func inFanoutBubble(t *testing.T, test func(t *testing.T, f *Fanout, sent *[]string)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := NewFanout(FanoutConfig{ReplicaID: "one", Box: noBox{}, Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		f.SetPeers(1)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		var sent []string // pace's alone, but while everybody waits
		go func() {
			defer close(done)
			f.pace(ctx, func(payload string) error {
				sent = append(sent, payload)
				return nil
			})
		}()
		defer func() {
			stop()
			<-done
		}()
		test(t, f, &sent)
	})
}

func user(i int) []events.Head { return []events.Head{{UserID: fmt.Sprint("user-", i), Seq: 1}} }

// The counter-example: a pause after each notification, which costs milliseconds
// at exactly the rates where there is nothing to merge.
func TestNotificationsGoOutAtOnceWhileTokensLast(t *testing.T) {
	inFanoutBubble(t, func(t *testing.T, f *Fanout, sent *[]string) {
		start := time.Now()
		for i := range notifyBurst {
			f.Publish(user(i), nil)
			synctest.Wait()
			if len(*sent) != i+1 {
				t.Fatalf("%d payloads after %d users", len(*sent), i+1)
			}
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("the burst took %v", took)
		}
	})
}

// Each notification takes a lock of the whole cluster and wakes every replica: above
// the rate, of which each has its share, users are merged, and nobody is forgotten.
func TestNotificationsAreMergedAboveTheirRate(t *testing.T) {
	t.Parallel()
	for peers, perSecond := range map[int]float64{1: 1000, 3: 333.3, 9: 111.1, 19: 100} {
		t.Run(fmt.Sprint(peers, " peers"), func(t *testing.T) {
			inFanoutBubble(t, func(t *testing.T, f *Fanout, sent *[]string) {
				f.SetPeers(peers)
				const users, every = 30_000, 100 * time.Microsecond
				tick := time.NewTicker(every)
				defer tick.Stop()
				for i := range users {
					<-tick.C
					f.Publish(user(i), nil)
				}
				<-time.After(time.Second) // for the last
				synctest.Wait()
				n, most := len(*sent), perSecond*(users*every).Seconds()+notifyBurst+2
				if float64(n) > most || float64(n) < most*0.95 {
					t.Errorf("%d payloads in %v, want %.0f", n, users*every, most)
				}
				named := 0
				for _, payload := range *sent {
					heads, _, err := f.open("one", strings.TrimPrefix(payload, "one\n"))
					if err != nil {
						t.Fatal(err)
					}
					named += len(heads)
				}
				if named != users {
					t.Errorf("%d users were named, want %d", named, users)
				}
			})
		})
	}
}
