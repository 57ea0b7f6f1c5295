package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	requestWithin = 15 * time.Second
	reloads       = 5
)

// edgeLimits has an edge that allows five errors in ten seconds: the address that makes
// more is told to wait, and is served again when it has waited.
func (t *test) edgeLimits() (err error) {
	edge := func(setting string) error {
		if _, err := t.shell(setting + " docker compose up -d --no-deps haproxy"); err != nil {
			return err
		}
		ids, err := t.containers("haproxy")
		if err != nil {
			return err
		}
		return t.healthy(ids...)
	}
	if err := edge("EDGE_ERRORS_PER_10S=5"); err != nil {
		return err
	}
	defer also(&err, func() error { return edge("") })

	// A message without an API key is an error, and refused by a replica.
	refused := 0
	answer, err := t.postNothing()
	for ; err == nil && answer.StatusCode == http.StatusUnauthorized && refused < 50; refused++ {
		answer, err = t.postNothing()
	}
	if err != nil {
		return err
	}
	kind, wait := answer.Header.Get("Content-Type"), answer.Header.Get("Retry-After")
	seconds, err := strconv.Atoi(wait)
	if answer.StatusCode != http.StatusTooManyRequests || kind != "application/problem+json" || err != nil {
		return wrong("after %d errors: %s, %s, Retry-After %q", refused, answer.Status, kind, wait)
	}
	if refused < 5 {
		return wrong("limited after %d errors", refused)
	}
	t.say("   %d errors, then 429 and Retry-After: %d", refused, seconds)
	// The rate slides: what falls into two windows counts in part in the second.
	for range 3 {
		if err := pause(t.ctx, time.Duration(seconds)*time.Second); err != nil {
			return err
		}
		if answer, err = t.postNothing(); err != nil || answer.StatusCode == http.StatusUnauthorized {
			return err
		}
	}
	return wrong("who has waited as told is still answered %s", answer.Status)
}

func (s *stack) postNothing() (*http.Response, error) {
	ctx, cancel := context.WithTimeout(s.ctx, requestWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url("RESTANTE_PORT")+"/v1/messages", strings.NewReader("{}"))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	return answer, answer.Body.Close()
}

// reload gives HAProxy another configuration, as an editor writes it: a new file in the
// old one's place. It takes effect, and when the old process is gone it has let go of
// every WebSocket.
func (t *test) reload() error {
	const header = "X-Reloaded"
	path := filepath.Join(t.root, "deploy", "haproxy", "haproxy.cfg")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed := strings.Replace(string(text), "    bind :8080\n", "    bind :8080\n    http-after-response set-header "+header+" yes\n", 1)
	if err := os.WriteFile(path+".new", []byte(changed), 0o644); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	ids, err := t.containers("haproxy")
	if err != nil {
		return err
	}
	processes := func() (int, error) {
		out, err := t.shell("docker top " + ids[0])
		return strings.Count(out, "haproxy.cfg"), err
	}
	before, err := processes()
	if err != nil {
		return err
	}
	// Several times: what a new process cannot do at once, it cannot for milliseconds.
	for range reloads {
		if _, err := t.block(blockReload); err != nil {
			return err
		}
	}
	err = t.eventually(func() error {
		answer, err := t.postNothing()
		if err == nil && answer.Header.Get(header) != "yes" {
			err = wrong("the changed configuration has no effect")
		}
		return err
	})
	if err != nil {
		return err
	}
	return t.eventually(func() error {
		now, err := processes()
		if err == nil && now > before {
			err = fmt.Errorf("%w: HAProxy has %d processes instead of %d", errWrong, now, before)
		}
		return err
	})
}
