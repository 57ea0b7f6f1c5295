package e2e

import (
	"bufio"
	"strconv"
	"strings"
)

// sample is one line of /metrics.
type sample struct {
	name, labels string
	value        float64
}

// exposition returns what /metrics says.
func (s *server) exposition() string {
	s.t.Helper()
	a, err := s.w.send(s.t.Context(), "GET", s.admin+"/metrics", "", "")
	if err != nil || a.status != 200 {
		s.t.Fatalf("/metrics: %d %v", a.status, err)
	}
	return string(a.body)
}

func (s *server) samples() []sample {
	s.t.Helper()
	var all []sample
	for lines := bufio.NewScanner(strings.NewReader(s.exposition())); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		series, value, _ := strings.Cut(line, " ")
		if end := strings.LastIndex(line, "} "); end >= 0 {
			series, value = line[:end+1], line[end+2:]
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			s.t.Fatalf("/metrics: %q: %v", line, err)
		}
		name, labels, _ := strings.Cut(series, "{")
		all = append(all, sample{name, strings.TrimSuffix(labels, "}"), number})
	}
	return all
}

// metric returns the sum of a metric's samples whose labels contain the text.
func (s *server) metric(name, labels string) float64 {
	s.t.Helper()
	sum := 0.0
	for _, sample := range s.samples() {
		if sample.name == name && strings.Contains(sample.labels, labels) {
			sum += sample.value
		}
	}
	return sum
}
