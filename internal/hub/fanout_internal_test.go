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
		f := NewFanout(FanoutConfig{ReplicaID: "one", Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
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

// Each notification takes a lock of the whole cluster: above the rate, users are
// merged, and nobody is forgotten.
func TestNotificationsAreMergedAboveTheirRate(t *testing.T) {
	inFanoutBubble(t, func(t *testing.T, f *Fanout, sent *[]string) {
		const users, every = 30_000, 100 * time.Microsecond
		start := time.Now()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for i := range users {
			<-tick.C
			f.Publish(user(i), nil)
		}
		<-time.After(time.Second)
		synctest.Wait()
		most := int(notifyRate*(users*every).Seconds()) + notifyBurst
		if n := len(*sent); n > most+1 || n < most/2 {
			t.Errorf("%d payloads for %d users in %v, want %d at the most", n, users, time.Since(start), most)
		}
		named := 0
		for _, payload := range *sent {
			named += strings.Count(payload, "\n")
		}
		if named != users {
			t.Errorf("%d users were named, want %d", named, users)
		}
	})
}
