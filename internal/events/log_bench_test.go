package events_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/database"
	"restante/internal/events"
	"restante/internal/testdb"
)

// The databases of tests do not wait for their disk, so these are the costs of
// Go and of the statements. What a commit costs on disk, cmd/bench measures.

const benchUsers = 200

// benchLog runs a Log on a database of its own.
func benchLog(b *testing.B) *events.Log {
	b.Helper()
	url := testdb.New(b).URL
	cfg := events.Config{
		OnCommit:     func([]events.Head, iter.Seq[events.Entry]) {},
		DeliverDelay: 10 * time.Second, Lease: 12 * time.Second, Retention: 24 * time.Hour,
		Metrics: prometheus.NewRegistry(),
	}
	durable, err := database.DurableConfig(url, 4)
	if err != nil {
		b.Fatal(err)
	}
	relaxed, err := database.RelaxedConfig(url, 4)
	if err != nil {
		b.Fatal(err)
	}
	if cfg.Durable, err = database.Open(b.Context(), durable); err != nil {
		b.Fatal(err)
	}
	if cfg.Relaxed, err = database.Open(b.Context(), relaxed); err != nil {
		b.Fatal(err)
	}
	cfg.Upkeep = cfg.Relaxed
	conn, err := cfg.Durable.Acquire(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	cfg.History, err = events.OpenHistory(b.Context(), conn.Conn(), slog.New(slog.DiscardHandler))
	conn.Release()
	if err != nil {
		b.Fatal(err)
	}
	log := events.New(cfg)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- log.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
		cfg.Durable.Close()
		cfg.Relaxed.Close()
	})
	return log
}

func benchMessage(n int64) events.Message {
	return events.Message{
		UserID: fmt.Sprint("user-", n%benchUsers), Payload: []byte(`"` + strings.Repeat("m", 254) + `"`),
		Publisher: "bench", TTL: time.Hour,
	}
}

// BenchmarkAppend is the group commit: P callers append one message each at the
// same time.
func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 64, 512} {
		b.Run(fmt.Sprint("P=", callers), func(b *testing.B) {
			log := benchLog(b)
			var n atomic.Int64
			b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := log.Append(b.Context(), []events.Message{benchMessage(n.Add(1))}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkAppendGroup appends 100 messages at once, as an array that is posted.
func BenchmarkAppendGroup(b *testing.B) {
	log := benchLog(b)
	group := make([]events.Message, 100)
	for i := range group {
		group[i] = benchMessage(int64(i))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := log.Append(b.Context(), group); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(group)), "ns/message")
}

// BenchmarkRead is one user's read of one event: from the tail, and from
// Postgres with 64 readers at the same time, who share statements.
func BenchmarkRead(b *testing.B) {
	log := benchLog(b)
	log.Watch("user-0")
	for n := range int64(benchUsers) {
		if _, err := log.Append(b.Context(), []events.Message{benchMessage(n)}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("tail", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if page, err := log.Read(b.Context(), "user-0", 0, 1); err != nil || len(page.Events) != 1 {
				b.Fatalf("page %+v, %v", page, err)
			}
		}
	})
	b.Run("grouped", func(b *testing.B) {
		var n atomic.Int64
		b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				user := benchMessage(n.Add(1)).UserID
				if page, err := log.Read(b.Context(), user, 0, 0); err != nil || len(page.Events) != 1 {
					b.Errorf("page %+v, %v", page, err)
					return
				}
			}
		})
	})
}
