package main

import (
	"bufio"
	"context"
	"net/http"
	"strconv"
	"strings"
)

// usage is what the servers take together.
type usage struct {
	memory     int64 // resident bytes, 0 if unknown
	goroutines int64 // 0 if unknown
}

func (e *environment) usage(ctx context.Context) (u usage) {
	for _, pid := range e.pids {
		if bytes, ok := residentOf(pid); ok {
			u.memory += bytes
		}
	}
	for _, admin := range e.admins {
		values, err := scrape(ctx, admin, "process_resident_memory_bytes", "go_goroutines")
		if err != nil {
			continue // the figure is left out
		}
		if len(e.pids) == 0 {
			u.memory += int64(values["process_resident_memory_bytes"])
		}
		u.goroutines += int64(values["go_goroutines"])
	}
	return u
}

// scrape reads metrics without labels.
func scrape(ctx context.Context, admin string, names ...string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", "http://"+admin+"/metrics", http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		for _, wanted := range names {
			if name == wanted {
				if values[name], err = strconv.ParseFloat(value, 64); err != nil {
					return nil, err
				}
			}
		}
	}
	return values, nil
}
