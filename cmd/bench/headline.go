package main

// metric is one number of a run that runs are compared by.
type metric struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

// Names that are asked for elsewhere.
const (
	rateMetric          = "messages/s"
	p50Metric           = "post to client p50 ms"
	p99Metric           = "post to client p99 ms"
	cpuMetric           = "CPU µs per message"
	walMetric           = "log bytes per message"
	settledMetric       = "acks in the database s"
	settledRateMetric   = "messages/s with acks in the database"
	memoryMetric        = "resident KiB each"
	goroutinesMetric    = "goroutines each"
	idleCPUMetric       = "CPU % of a core per 1,000 connections"
	idlePostgresMetric  = "PostgreSQL % of a core"
	idleWALMetric       = "log bytes/s"
	idleWALCausedMetric = "log bytes/s more than without connections"
	stormMetric         = "all delivered after the first is back s"
)

// headline is what a run of its mode is about. What is unknown is left out.
func (f *figures) headline() []metric {
	var all []metric
	add := func(name string, value float64) { all = append(all, metric{name, value}) }
	known := func(name string, value float64) {
		if value > 0 {
			add(name, value)
		}
	}
	known(rateMetric, f.Rate)
	if f.Delivery != nil && (f.Mode == "throughput" || f.Mode == "batch" || f.Mode == "latency") {
		add(p50Metric, f.Delivery.P50)
		add(p99Metric, f.Delivery.P99)
	}
	if f.Lateness != nil {
		add("generator late p50 ms", f.Lateness.P50)
		add("generator late p99 ms", f.Lateness.P99)
	}
	if f.CPU != nil {
		add(cpuMetric, f.CPU.Both)
		add("… server", f.CPU.Server)
		add("… PostgreSQL", f.CPU.Postgres)
	}
	known(walMetric, f.WALBytes)
	if d := f.Drain; d != nil {
		add("stored messages/s", d.StoredPerSecond)
		add("clients connected s", d.ConnectSeconds)
		add(settledMetric, d.SettledSeconds)
		known(settledRateMetric, per(float64(f.Messages), d.SettledSeconds))
	}
	if i := f.Idle; i != nil {
		known(memoryMetric, i.BytesEach/1024)
		known(goroutinesMetric, i.GoroutinesEach)
		if i.With.KnownCPU {
			add(idleCPUMetric, (i.With.Server+i.With.Postgres)*1000/float64(i.Connections))
			add("server % of a core", i.With.Server)
			add(idlePostgresMetric, i.With.Postgres)
		}
		add(idleWALMetric, i.With.WAL)
		add(idleWALCausedMetric, i.With.WAL-i.Without.WAL)
	}
	if s := f.Storm; s != nil {
		add("all clients back s", s.ConnectedSeconds)
		add("all delivered s", s.DeliveredSeconds)
		add(stormMetric, s.DeliveredSeconds-s.FirstSeconds)
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

// value is one metric of a run. A run that failed is nil and has none.
func (f *figures) value(name string) (value float64, has bool) {
	if f == nil {
		return 0, false
	}
	for _, m := range f.headline() {
		if m.Name == name {
			return m.Value, true
		}
	}
	return 0, false
}

// column is one metric of all runs that have it.
func column(runs []*figures, name string) (values []float64) {
	for _, f := range runs {
		if v, has := f.value(name); has {
			values = append(values, v)
		}
	}
	return values
}

// ratios are b/a for those runs of the same round that both have the metric.
func ratios(a, b []*figures, name string) (all []float64) {
	for i := range min(len(a), len(b)) {
		x, hasX := a[i].value(name)
		y, hasY := b[i].value(name)
		if hasX && hasY && x != 0 {
			all = append(all, y/x)
		}
	}
	return all
}
