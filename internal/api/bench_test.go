package api_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"restante/internal/api"
	"restante/internal/events"
)

// instantLog accepts at once, so that only the edge is measured.
type instantLog struct{ fakeLog }

func (*instantLog) Append(_ context.Context, messages []events.Message) ([]events.Receipt, error) {
	receipts := make([]events.Receipt, len(messages))
	for i := range messages {
		receipts[i] = events.Receipt{Seq: 1234567, AcceptedAt: acceptedAt, ExpiresAt: acceptedAt}
	}
	return receipts, nil
}

func instantEdge() http.Handler {
	g := newEdge(api.Config{}, slog.LevelInfo)
	return api.New(api.Config{}, api.Deps{
		Log: &instantLog{}, Keys: fakeKeys{}, Identity: fakeIdentity{}, Metrics: newRegistry(), Logger: slog.New(slog.DiscardHandler),
		Ready: func(context.Context) api.Readiness { return *g.ready },
	}).Handler()
}

// rewind is a request body that can be read again and again.
type rewind struct{ bytes.Reader }

func (*rewind) Close() error { return nil }

// sink is a response writer that keeps nothing.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }
func (s *sink) WriteHeader(status int)      { s.status = status }

// BenchmarkPost is the handler's own cost of POST /v1/messages with a message of
// 256 bytes: everything but net/http's connection and the log.
func BenchmarkPost(b *testing.B) {
	for _, bench := range []struct{ name, body string }{
		{"string256", `{"userId":"user-0123456789","message":"` + strings.Repeat("m", 254) + `"}`},
		{"object256", `{"userId":"user-0123456789","message":{"text":"` + strings.Repeat("m", 200) + `","n":[1,2,3],"deep":{"a":null}}}`},
		{"string16k", `{"userId":"user-0123456789","message":"` + strings.Repeat("m", 16<<10) + `"}`},
		{"array100", "[" + strings.Repeat(`{"userId":"user-0123456789","message":"`+strings.Repeat("m", 254)+`"},`, 99) + `{"userId":"u","message":1}]`},
	} {
		b.Run(bench.name, func(b *testing.B) {
			handler := instantEdge()
			body := []byte(bench.body)
			r := httptest.NewRequest("POST", "/v1/messages", nil)
			r.Header.Set("Authorization", "Bearer "+publishKey)
			r.Header.Set("Content-Type", "application/json")
			r.ContentLength = int64(len(body))
			reader := &rewind{}
			w := &sink{header: http.Header{}}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				reader.Reset(body)
				r.Body = reader
				clear(w.header)
				handler.ServeHTTP(w, r)
				if w.status != http.StatusAccepted {
					b.Fatalf("status %d", w.status)
				}
			}
		})
	}
}

// BenchmarkServer is the same through a real connection each, to see what share
// is ours.
func BenchmarkServer(b *testing.B) {
	server := httptest.NewServer(instantEdge())
	defer server.Close()
	body := `{"userId":"user-0123456789","message":"` + strings.Repeat("m", 254) + `"}`
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r, err := http.NewRequest("POST", server.URL+"/v1/messages", strings.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			r.Header.Set("Authorization", "Bearer "+publishKey)
			r.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(r)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != http.StatusAccepted {
				b.Errorf("status %d", resp.StatusCode)
				return
			}
		}
	})
}
