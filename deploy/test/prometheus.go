package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// prometheus asks the stack's own whether it sees every replica and the edge, and has
// evaluated every alert.
func (t *test) prometheus() error {
	text, err := os.ReadFile(filepath.Join(t.root, "deploy", "prometheus", "alerts.yml"))
	if err != nil {
		return err
	}
	var alerts []string
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllSubmatch(text, -1) {
		alerts = append(alerts, string(m[1]))
	}
	return t.eventually(func() error {
		if err := t.targets(map[string]int{"restante": 3, "haproxy": 1}); err != nil {
			return err
		}
		return t.rules(alerts)
	})
}

// targets are as many as they should be of each job, and up.
func (t *test) targets(want map[string]int) error {
	var answer struct {
		Data struct {
			ActiveTargets []struct {
				Labels            map[string]string
				Health, LastError string
			}
		}
	}
	if err := t.get(t.url("RESTANTE_PROMETHEUS_PORT")+"/api/v1/targets", &answer); err != nil {
		return err
	}
	up := map[string]int{}
	for _, target := range answer.Data.ActiveTargets {
		if target.Health != "up" {
			return wrong("%v is %s: %s", target.Labels, target.Health, target.LastError)
		}
		up[target.Labels["job"]]++
	}
	if !maps.Equal(up, want) {
		return wrong("targets up are %v instead of %v", up, want)
	}
	return nil
}

// rules have these alerts, and all were evaluated.
func (t *test) rules(alerts []string) error {
	var answer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Type, Health, LastError string }
			}
		}
	}
	if err := t.get(t.url("RESTANTE_PROMETHEUS_PORT")+"/api/v1/rules", &answer); err != nil {
		return err
	}
	var loaded []string
	for _, group := range answer.Data.Groups {
		for _, rule := range group.Rules {
			if rule.Health != "ok" {
				return wrong("rule %s is %s: %s", rule.Name, rule.Health, rule.LastError)
			}
			if rule.Type == "alerting" {
				loaded = append(loaded, rule.Name)
			}
		}
	}
	if !slices.Equal(slices.Sorted(slices.Values(loaded)), slices.Sorted(slices.Values(alerts))) {
		return wrong("Prometheus has the alerts %v instead of %v", loaded, alerts)
	}
	return nil
}

// get asks for JSON.
func (s *stack) get(url string, out any) error {
	ctx, cancel := context.WithTimeout(s.ctx, requestWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	return json.NewDecoder(answer.Body).Decode(out)
}
