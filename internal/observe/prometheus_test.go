package observe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"
)

// findTools looks for Prometheus once in a test process.
var findTools = sync.OnceValues(tools)

// promtool returns the path of promtool, prometheusServer that of the server.
func promtool(t testing.TB) string         { return tool(t, "promtool") }
func prometheusServer(t testing.TB) string { return tool(t, "prometheus") }

func tool(t testing.TB, name string) string {
	t.Helper()
	dir, err := findTools()
	if err != nil {
		t.Fatalf("%v\nInstall Prometheus, so that prometheus and promtool are on PATH (Debian, Ubuntu: sudo apt-get install prometheus), and try again.", err)
	}
	return filepath.Join(dir, name)
}

// tools returns the directory of prometheus and promtool: from PATH, or unpacked
// from the distribution's package into the user's cache. The package is not
// installed, because that would start a server on the port of our admin listener.
func tools() (string, error) {
	if path, err := exec.LookPath("promtool"); err == nil {
		dir := filepath.Dir(path)
		if _, err := os.Stat(filepath.Join(dir, "prometheus")); err == nil {
			return dir, nil
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "restante")
	dir := filepath.Join(cache, "prometheus")
	if _, err := os.Stat(filepath.Join(dir, "promtool")); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("prepare a directory for Prometheus: %w", err)
	}
	work, err := os.MkdirTemp(cache, "unpack-")
	if err != nil {
		return "", fmt.Errorf("prepare a directory for Prometheus: %w", err)
	}
	defer os.RemoveAll(work)
	if err := unpack(work); err != nil {
		return "", fmt.Errorf("there is no Prometheus, and fetching it failed: %w", err)
	}
	// Another test process may have been quicker.
	if err := os.Rename(filepath.Join(work, "root", "usr", "bin"), dir); err != nil {
		if _, missing := os.Stat(filepath.Join(dir, "promtool")); missing != nil {
			return "", fmt.Errorf("keep Prometheus: %w", err)
		}
	}
	return dir, nil
}

func unpack(work string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	do := func(name string, args ...string) error {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = work
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w %s", name, args[0], err, bytes.TrimSpace(out))
		}
		return nil
	}
	err := do("apt-get", "download", "prometheus")
	if err != nil && os.Geteuid() == 0 {
		// Most often the package lists are missing or old: a fresh image has none.
		if err := do("apt-get", "update"); err != nil {
			return err
		}
		err = do("apt-get", "download", "prometheus")
	}
	if err != nil {
		return err
	}
	packages, _ := filepath.Glob(filepath.Join(work, "*.deb")) // the pattern is well-formed
	if len(packages) != 1 {
		return fmt.Errorf("apt-get download left %d packages", len(packages))
	}
	return do("dpkg-deb", "-x", packages[0], "root")
}

// prometheus is a running server.
type prometheus struct {
	*child
	url     string
	targets string // file
	started time.Time
}

var listensOn = regexp.MustCompile(`msg="Listening on".*address=(\S+)`)

// startPrometheus runs a server that scrapes the targets twice a second and evaluates
// the rules four times. The targets stand in a file, for some may leave it, as
// containers that are stopped leave the DNS.
func startPrometheus(t testing.TB, rules string, targets ...string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	const config = `
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 250ms}
rule_files: [rules.yml]
scrape_configs: [{job_name: restante, file_sd_configs: [{files: [targets.json]}]}]
`
	for name, text := range map[string]string{"prometheus.yml": config, "rules.yml": rules} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := &prometheus{started: time.Now(), targets: filepath.Join(dir, "targets.json")}
	p.scrape(t, targets...)
	p.child = start(t, nil, prometheusServer(t), "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	p.url = "http://" + p.says(listensOn)[1]
	eventually(t, "Prometheus is ready", func() bool {
		answer, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	return p
}

// scrape changes the targets. Prometheus follows within ten seconds.
func (p *prometheus) scrape(t testing.TB, targets ...string) {
	t.Helper()
	text, err := json.Marshal([]map[string][]string{{"targets": targets}})
	if err != nil {
		t.Fatal(err)
	}
	// In one step, or Prometheus may read half of it.
	if err := os.WriteFile(p.targets+".new", text, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(p.targets+".new", p.targets); err != nil {
		t.Fatal(err)
	}
}

// api asks Prometheus and reads the data of its answer.
func (p *prometheus) api(path string, query url.Values, data any) error {
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(p.url + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	var answer struct {
		Status, Error string
		Warnings      []string
		Data          json.RawMessage
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return err
	}
	if answer.Status != "success" || len(answer.Warnings) > 0 {
		return fmt.Errorf("%s %v", answer.Error, answer.Warnings)
	}
	return json.Unmarshal(answer.Data, data)
}

// ask evaluates an expression over the whole run, and returns how many series it
// has. What is not a number counts for nothing.
func (p *prometheus) ask(expr string) (seriesCount int, err error) {
	var data struct {
		Result []struct {
			Values [][2]any
		}
	}
	now := time.Now()
	// At most 11,000 points; a run has some hundred seconds.
	err = p.api("query_range", url.Values{
		"query": {expr}, "step": {"0.5"},
		"start": {fmt.Sprint(p.started.Unix())}, "end": {fmt.Sprint(now.Unix() + 1)},
	}, &data)
	for _, s := range data.Result {
		for _, v := range s.Values {
			if v[1] != "NaN" {
				seriesCount++
				break
			}
		}
	}
	return seriesCount, err
}

// firing returns the alerts that are firing.
func (p *prometheus) firing() map[string]bool {
	p.t.Helper()
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	if err := p.api("alerts", nil, &data); err != nil {
		p.t.Fatalf("ask for alerts: %v", err)
	}
	names := map[string]bool{}
	for _, a := range data.Alerts {
		if a.State == "firing" {
			names[a.Labels["alertname"]] = true
		}
	}
	return names
}

// rule is an alert as Prometheus has understood it.
type rule struct {
	Name, Query, Health, LastError string
	Labels, Annotations            map[string]string
}

func (p *prometheus) rules() []rule {
	p.t.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	if err := p.api("rules", nil, &data); err != nil {
		p.t.Fatalf("ask for rules: %v", err)
	}
	var all []rule
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// labels returns the labels that a metric's series had during the run, and their
// values; nil if there is no such metric.
func (p *prometheus) labels(metric string) map[string]map[string]bool {
	p.t.Helper()
	var all []map[string]string
	if err := p.api("series", url.Values{"match[]": {metric}, "start": {fmt.Sprint(p.started.Unix())}}, &all); err != nil {
		p.t.Fatalf("ask for series: %v", err)
	}
	var found map[string]map[string]bool
	for _, s := range all {
		if found == nil {
			found = map[string]map[string]bool{}
		}
		for name, value := range s {
			if found[name] == nil {
				found[name] = map[string]bool{}
			}
			found[name][value] = true
		}
	}
	return found
}
