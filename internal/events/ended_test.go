package events_test

import (
	"context"
	"errors"
	"iter"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/testdb"
)

// The counter-example: a request arrives when Run has answered its queue and is
// gone. It stands in the queue until whoever asked gives up.
func TestWhatComesAfterTheEndIsAnswered(t *testing.T) {
	t.Parallel()
	url := testdb.New(t).URL
	durable, relaxed := open(t, url, database.DurableConfig), open(t, url, database.RelaxedConfig)
	defer durable.Close()
	defer relaxed.Close()
	log := events.New(events.Config{
		Durable: durable, Relaxed: relaxed, Upkeep: relaxed, OnCommit: func([]events.Head, iter.Seq[events.Entry]) {}, Lease: time.Second, Retention: time.Hour,
		Metrics: prometheus.NewRegistry(),
	})
	ctx, stop := context.WithCancel(t.Context())
	early := doing(func() ([]events.Receipt, error) {
		return log.Append(t.Context(), []events.Message{message("al", "early")})
	})
	running := doing(func() (struct{}, error) { return struct{}{}, log.Run(ctx) })
	get(t, "append", early)
	stop()
	get(t, "run", running)

	late, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 3 {
		if _, err := log.Append(late, []events.Message{message("al", "late")}); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("append: %v", err)
		}
		if _, err := log.Read(late, "al", 0, 0); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("read: %v", err)
		}
	}
}
