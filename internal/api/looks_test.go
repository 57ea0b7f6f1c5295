package api_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/api"
	"restante/internal/events"
)

// slowLog looks up one user's statuses for as long as a test likes.
type slowLog struct {
	*fakeLog
	asked chan struct{} // receives one value per look
	gate  chan struct{}
}

func (l *slowLog) Status(ctx context.Context, userID string, seq int64) (events.Status, error) {
	if userID == "slow" {
		l.asked <- struct{}{}
		select {
		case <-l.gate:
		case <-ctx.Done():
		}
	}
	return l.fakeLog.Status(ctx, userID, seq)
}

// The counter-example: one key asks for so many statuses that tokens, connects and
// other keys wait for a connection to Postgres.
func TestLooksOfOneKeyLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	log := &slowLog{fakeLog: &fakeLog{heads: map[string]int64{"slow": 1, "ann": 1}}, asked: make(chan struct{}, 100), gate: make(chan struct{})}
	registry := prometheus.NewRegistry()
	a := api.New(api.Config{}, api.Deps{
		Log: log, Tokens: &fakeTokens{}, Identity: fakeIdentity{}, Keys: fakeKeys{}, Connector: &fakeConnector{},
		Ready:   func(context.Context) api.Readiness { return api.Readiness{} },
		Metrics: registry, Gatherer: registry, Logger: slog.New(slog.DiscardHandler),
	})
	handler := a.Handler()
	get := func(key, user string) int {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/v1/users/"+user+"/messages/1", nil)
		r.Header.Set("Authorization", "Bearer "+key)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	var flood sync.WaitGroup
	for range 50 {
		flood.Go(func() {
			if status := get(publishKey, "slow"); status != http.StatusOK {
				t.Errorf("a status of the flood: %d", status)
			}
		})
	}
	for range 3 {
		<-log.asked
	}
	for range 10 {
		if status := get(readKey, "ann"); status != http.StatusOK {
			t.Errorf("another key's status: %d", status)
		}
	}
	if n := len(log.asked); n > 0 {
		t.Errorf("%d looks of one key at once", 3+n)
	}
	close(log.gate)
	flood.Wait()
}

// blockingLog does not answer one publisher.
type blockingLog struct {
	*fakeLog
	gate chan struct{}
}

func (l *blockingLog) Append(ctx context.Context, messages []events.Message) ([]events.Receipt, error) {
	if messages[0].Publisher == "shop" {
		<-l.gate
	}
	return l.fakeLog.Append(ctx, messages)
}

// The counter-example: 16 arrays of 8 MB of one key take all the memory there is for
// bodies, and another key's array is refused.
func TestLongBodiesOfOneKeyLeaveRoomForOthers(t *testing.T) {
	t.Parallel()
	log := &blockingLog{fakeLog: &fakeLog{heads: map[string]int64{}, keys: map[string]keyed{}}, gate: make(chan struct{})}
	registry := prometheus.NewRegistry()
	a := api.New(api.Config{BodyTimeout: time.Minute}, api.Deps{
		Log: log, Tokens: &fakeTokens{}, Identity: fakeIdentity{}, Keys: fakeKeys{}, Connector: &fakeConnector{},
		Ready:   func(context.Context) api.Readiness { return api.Readiness{} },
		Metrics: registry, Gatherer: registry, Logger: slog.New(slog.DiscardHandler),
	})
	handler := a.Handler()
	post := func(key, body string) int {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/messages", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code
	}
	array := func(size int) string {
		return `[{"userId":"team-1","message":"x"}` + strings.Repeat(" ", size) + "]"
	}
	var flood sync.WaitGroup
	long := array(8_000_000)
	for range 16 {
		flood.Go(func() {
			if status := post(publishKey, long); status != http.StatusAccepted {
				t.Errorf("an array of the flood: %d", status)
			}
		})
	}
	// Whenever it comes: the others may hold all they can by then, or not yet.
	for range 5 {
		if status := post(teamKey, array(4_000_000)); status != http.StatusAccepted {
			t.Errorf("another key's array: %d", status)
		}
	}
	close(log.gate)
	flood.Wait()
}
