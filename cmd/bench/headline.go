package main

// metric is one number of a run that runs are compared by.
type metric struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Names that are asked for elsewhere.
const (
	rateMetric    = "messages/s"
	p50Metric     = "post to client p50 ms"
	p99Metric     = "post to client p99 ms"
	cpuMetric     = "CPU µs per message"
	settledMetric = "acks in the database s"
)

// headline is what a run of its mode is about.
func (f *figures) headline() []metric {
	var all []metric
	add := func(name string, value float64) { all = append(all, metric{name, value}) }
	if f.Rate > 0 {
		add(rateMetric, f.Rate)
	}
	if f.Delivery != nil && f.Mode != "drain" && f.Mode != "storm" {
		add(p50Metric, f.Delivery.P50)
		add(p99Metric, f.Delivery.P99)
	}
	if f.CPU != nil {
		add(cpuMetric, f.CPU.Both)
		add("… server", f.CPU.Server)
		add("… PostgreSQL", f.CPU.Postgres)
	}
	if d := f.Drain; d != nil {
		add("stored messages/s", d.StoredPerSecond)
		add("clients connected s", d.ConnectSeconds)
		add(settledMetric, d.SettledSeconds)
	}
	if i := f.Idle; i != nil {
		add("resident KiB each", i.BytesEach/1024)
		add("server % of a core", i.ServerCorePercent)
		add("PostgreSQL % of a core", i.PostgresCorePercent)
	}
	if q := f.Quiet; q != nil {
		add("log bytes/s", q.WALBytesPerSecond)
		add("server % of a core", q.ServerCorePercent)
		add("PostgreSQL % of a core", q.PostgresCorePercent)
	}
	if s := f.Storm; s != nil {
		add("all clients back s", s.ConnectedSeconds)
		add("all delivered s", s.DeliveredSeconds)
		add(settledMetric, s.SettledSeconds)
	}
	if o := f.Offline; o != nil {
		add("messages/s without offline users", o.Before.Rate)
		add("messages/s with them", o.After.Rate)
		add("messages/s and jobs", o.WithJobs.Rate)
		add("fetch ms with jobs", o.FetchJobs)
	}
	return all
}
