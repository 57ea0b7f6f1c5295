package hub

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/events"
)

// instantLog has every event that is asked for.
type instantLog struct{ page []events.Event }

func (l *instantLog) ReadUpTo(_ context.Context, _ string, after, known int64, _ int) (events.Page, error) {
	n := min(known-after, int64(len(l.page)))
	return events.Page{Events: l.page[:n], Through: after + n}, nil
}
func (*instantLog) Ack(string, int64) {}
func (*instantLog) Watch(string)      {}
func (*instantLog) Unwatch(string)    {}

func (*instantLog) Attach(context.Context, ...events.Session) (map[string]events.Position, error) {
	return map[string]events.Position{}, nil
}
func (*instantLog) Detach(context.Context, ...string) error            { return nil }
func (*instantLog) Attached(context.Context, string) ([]string, error) { return nil, nil }
func (*instantLog) Owed(context.Context, string) (map[string]events.Position, error) {
	return nil, nil
}

func (*instantLog) Behind(context.Context, []events.Sighting) ([]events.Head, error) {
	return nil, nil
}
func (*instantLog) Leave(context.Context, string) error { return nil }

// echo confirms what it is sent through a channel.
type echo struct{ through chan int64 }

func (e *echo) Send(b Batch) error { e.through <- b.Through; return nil }
func (*echo) Ping() error          { return nil }
func (*echo) Close(Closing)        {}

// BenchmarkDeliver is a session's part in a message: wake, read, send, confirm.
// The log and the socket cost nothing here.
func BenchmarkDeliver(b *testing.B) {
	for _, n := range []int64{1, 64} {
		b.Run(fmt.Sprint("messages=", n), func(b *testing.B) {
			log := &instantLog{}
			for range n {
				log.page = append(log.page, events.Event{Payload: []byte(`"x"`), CreatedAt: time.Now().Add(time.Hour)})
			}
			h := New(Config{
				MaxAge: time.Hour, MaxPerUser: 1, WindowMessages: 1024, WindowBytes: 1 << 20, AckTimeout: time.Minute,
				Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
			}, log, log)
			s, err := h.Open(b.Context(), "user", "bench")
			if err != nil {
				b.Fatal(err)
			}
			client := &echo{make(chan int64, 1)}
			s.Start(client)
			heads := []events.Head{{UserID: "user"}}
			b.ReportAllocs()
			for b.Loop() {
				heads[0].Seq += n
				h.Wake(FromCommit, heads)
				for through := int64(0); through < heads[0].Seq; {
					through = <-client.through
					// instantLog numbers nothing, so the window is confirmed as a whole.
					if err := s.Ack(through); err != nil {
						b.Fatal(err)
					}
				}
			}
			s.End(ByClient)
			if err := h.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// noBox leaves out what sealing and opening cost: 3 µs for a full notification (tokens.BenchmarkBox).
type noBox struct{}

func (noBox) Seal(plain []byte) ([]byte, error)            { return plain, nil }
func (noBox) Open(_ string, sealed []byte) ([]byte, error) { return sealed, nil }

// BenchmarkFanout is what a commit of 64 users costs towards the other replicas,
// without sending it; and, for receive, what it costs the others.
func BenchmarkFanout(b *testing.B) {
	f := NewFanout(FanoutConfig{ReplicaID: "replica-0123456789", Box: noBox{}, Metrics: prometheus.NewRegistry()})
	f.SetPeers(1)
	heads, entries := make([]events.Head, 64), make([]events.Entry, 64)
	for i := range heads {
		heads[i] = events.Head{UserID: fmt.Sprint("user-", 1000+i), Seq: int64(i + 1)}
		entries[i] = entry(heads[i].UserID, heads[i].Seq, 256)
	}
	b.Run("publish", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			f.Publish(heads, slices.Values(entries))
			if payloads := f.take(); len(payloads) != 1 {
				b.Fatalf("%d payloads", len(payloads))
			}
		}
	})
	b.Run("receive", func(b *testing.B) {
		f.Publish(heads, slices.Values(entries))
		payload := f.take()[0]
		received := 0
		other := NewFanout(FanoutConfig{
			ReplicaID: "replica-9876543210", Box: noBox{}, Metrics: prometheus.NewRegistry(),
			Received: func(_ []events.Head, entries []events.Entry) { received = len(entries) },
		})
		b.ReportAllocs()
		for b.Loop() {
			other.receive(payload)
		}
		if received == 0 {
			b.Fatal("nothing came along")
		}
	})
}

// BenchmarkWake wakes one of many users, who has nothing to do.
func BenchmarkWake(b *testing.B) {
	h := New(Config{MaxPerUser: 1, Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}, &instantLog{}, &instantLog{})
	for i := range 10_000 {
		if _, err := h.Open(b.Context(), fmt.Sprint("user-", i), "bench"); err != nil {
			b.Fatal(err)
		}
	}
	heads := []events.Head{{UserID: "user-77", Seq: 1}}
	b.ReportAllocs()
	for b.Loop() {
		h.Wake(FromCommit, heads)
	}
}
