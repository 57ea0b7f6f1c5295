package hub

import (
	"github.com/prometheus/client_golang/prometheus"

	"restante/internal/events"
)

type metrics struct {
	sessions      *prometheus.GaugeVec
	opened        *prometheus.CounterVec
	closed        *prometheus.CounterVec
	refused       *prometheus.CounterVec
	blocked       prometheus.Gauge
	wakes         *prometheus.CounterVec
	written       prometheus.Counter
	gaps          prometheus.Counter
	writeDelay    prometheus.Histogram
	ackDelay      prometheus.Histogram
	readFailures  prometheus.Counter
	sweepFound    prometheus.Counter
	sweepSeconds  prometheus.Histogram
	beats         *prometheus.CounterVec
	lapses        prometheus.Counter
	reattached    prometheus.Counter
	presenceFixed prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	delay := []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 5, 10, 30, 60}
	m := metrics{
		sessions:      prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "restante_sessions", Help: "Client connections open on this replica."}, []string{"transport"}),
		opened:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "restante_sessions_opened_total", Help: "Client connections opened."}, []string{"transport"}),
		closed:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "restante_sessions_closed_total", Help: "Client connections ended, by transport and reason."}, []string{"transport", "reason"}),
		refused:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "restante_sessions_refused_total", Help: "Client connections refused before they opened, by reason."}, []string{"reason"}),
		blocked:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "restante_sessions_blocked", Help: "Client connections that are full: their clients read more slowly than messages come."}),
		wakes:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "restante_wakes_total", Help: "Wakes that reached a session here, by source."}, []string{"source"}),
		written:       prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_session_messages_written_total", Help: "Messages written to clients."}),
		gaps:          prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_session_gaps_total", Help: "Gaps in a stream announced to clients."}),
		writeDelay:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "restante_append_to_write_seconds", Help: "From the append of a message to its write, for clients that were connected at the append and had room.", Buckets: delay}),
		ackDelay:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "restante_append_to_ack_seconds", Help: "From the append of a message to its confirmation, for users who were connected at the append.", Buckets: delay}),
		readFailures:  prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_session_read_errors_total", Help: "Reads of the log that failed and were repeated."}),
		sweepFound:    prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_sweep_found_total", Help: "Sessions that the sweep found behind: wakes that were lost, or clients that are slow."}),
		sweepSeconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "restante_sweep_seconds", Help: "Time of one sweep or resynchronisation.", Buckets: delay}),
		beats:         prometheus.NewCounterVec(prometheus.CounterOpts{Name: "restante_heartbeats_total", Help: "Heartbeats of this replica, by result."}, []string{"result"}),
		lapses:        prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_lease_lapses_total", Help: "Heartbeats that found this replica's lease missing or nearly over, or came after one whose answer was lost."}),
		reattached:    prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_sessions_reattached_total", Help: "Sessions registered again after a lapse."}),
		presenceFixed: prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_presence_repairs_total", Help: "Session rows that were missing or left over, and were put right."}),
	}
	reg.MustRegister(m.sessions, m.opened, m.closed, m.refused, m.blocked, m.wakes, m.written, m.gaps, m.writeDelay, m.ackDelay,
		m.readFailures, m.sweepFound, m.sweepSeconds, m.beats, m.lapses, m.reattached, m.presenceFixed)
	// Every series whose labels are known exists from the start: a rate over one
	// that appears with its first error misses that error.
	for _, source := range []string{FromCommit, FromNotify, FromJob, fromConnect, fromResync, fromSweep} {
		m.wakes.WithLabelValues(source)
	}
	for _, err := range []error{ErrDraining, ErrTooManySessions, events.ErrUnavailable} {
		m.refused.WithLabelValues(refusal(err))
	}
	for _, result := range []string{"ok", "failed"} {
		m.beats.WithLabelValues(result)
	}
	return m
}
