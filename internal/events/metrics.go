package events

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	appended      prometheus.Counter
	appendedBytes prometheus.Counter
	repeated      prometheus.Counter
	appendErrors  *prometheus.CounterVec
	setAside      prometheus.Counter

	tooManyPending prometheus.Counter
	batchSize      prometheus.Histogram
	commitSeconds  prometheus.Histogram
	reads          *prometheus.CounterVec
	readSeconds    prometheus.Histogram
	ackSeconds     prometheus.Histogram
	ackErrors      prometheus.Counter
	acked          prometheus.Counter
	ackLocked      prometheus.Counter
	expired        prometheus.Counter
	trimmed        prometheus.Counter
	trimSkipped    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	commitBuckets := []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .125, .25, .5, 1, 2, 5}
	m := metrics{
		appended:       prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_append_messages_total", Help: "Messages committed to the log."}),
		appendedBytes:  prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_append_payload_bytes_total", Help: "Payload bytes committed to the log."}),
		repeated:       prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_append_repeated_total", Help: "Messages answered with the result of an earlier one of the same idempotency key."}),
		appendErrors:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "restante_append_errors_total", Help: "Append requests that failed, by reason."}, []string{"reason"}),
		setAside:       prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_append_set_aside_total", Help: "Append requests that were set aside because somebody else had locked a stream of theirs."}),
		tooManyPending: prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_append_too_many_pending_total", Help: "Messages refused because too many of their user's are pending (-max-pending-per-user)."}),
		batchSize:      prometheus.NewHistogram(prometheus.HistogramOpts{Name: "restante_append_batch_messages", Help: "Messages per commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 11)}),
		commitSeconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "restante_append_commit_seconds", Help: "Time of one group commit.", Buckets: commitBuckets}),
		reads:          prometheus.NewCounterVec(prometheus.CounterOpts{Name: "restante_reads_total", Help: "Reads of a stream, by where they were served: tail (memory) or log (Postgres)."}, []string{"source"}),
		readSeconds:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "restante_read_seconds", Help: "Time of one read statement, which serves several sessions.", Buckets: commitBuckets}),
		ackSeconds:     prometheus.NewHistogram(prometheus.HistogramOpts{Name: "restante_ack_flush_seconds", Help: "Time to write one batch of acks.", Buckets: commitBuckets}),
		ackErrors:      prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_ack_flush_errors_total", Help: "Batches of acks that failed and were kept for later."}),
		acked:          prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_ack_streams_total", Help: "Streams whose acked position was written."}),
		ackLocked:      prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_ack_streams_locked_total", Help: "Streams that were locked by somebody else when their acked position was to be written; they are tried again on their own."}),
		expired:        prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_events_expired_total", Help: "Events that nobody confirmed before their time was up."}),
		trimmed:        prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_events_trimmed_total", Help: "Delivered events deleted after the retention."}),
		trimSkipped:    prometheus.NewCounter(prometheus.CounterOpts{Name: "restante_trim_skipped_total", Help: "Times that trim left a stream to its next walk, because the stream was locked or Postgres refused."}),
	}
	reg.MustRegister(m.appended, m.appendedBytes, m.repeated, m.appendErrors, m.setAside, m.tooManyPending, m.batchSize, m.commitSeconds,
		m.reads, m.readSeconds, m.ackSeconds, m.ackErrors, m.acked, m.ackLocked, m.expired, m.trimmed, m.trimSkipped)
	// Every series exists from the start: a rate over one that appears with its
	// first error misses that error.
	for _, reason := range []string{"overloaded", "lost_race", "unavailable", "outcome_unknown", "data"} {
		m.appendErrors.WithLabelValues(reason)
	}
	for _, source := range []string{"tail", "log"} {
		m.reads.WithLabelValues(source)
	}
	return m
}
