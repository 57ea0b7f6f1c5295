package observe

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var dashboardFile = filepath.Join("..", "..", "deploy", "grafana", "dashboards", "restante.json")

type row struct {
	title  string
	panels []panel
}

// panel is what its author has to decide; the rest is the same for all of a kind.
type panel struct {
	kind          kind // empty: a time series
	title, about  string
	unit          string            // a unit of Grafana's: s, bytes, ops …
	width, height int               // of 24 columns; 8 by 8 if 0
	steps         []step            // colours from a value on
	own           map[string][]step // steps of single queries, by their legend
	line          bool              // draw the steps as lines
	stack         bool
	queries       []query
}

type query struct{ expr, legend string }

type step struct {
	from  float64
	color string
}

type kind string

const (
	series   kind = "timeseries"
	stat     kind = "stat"
	heatmap  kind = "heatmap"
	timeline kind = "state-timeline"

	green, yellow, red = "green", "yellow", "red"
)

type object = map[string]any

var source = object{"type": "prometheus", "uid": "${datasource}"}

// replicaStarted marks restarts in every graph.
const replicaStarted = `changes(process_start_time_seconds{job="restante", instance=~"$replica"}[$__rate_interval]) > 0`

// render makes the dashboard in Grafana's classic JSON model, which every version
// from 10 on reads.
func render() []byte {
	var panels []any
	id, y := 0, 0
	for _, r := range rows() {
		id++
		panels = append(panels, object{
			"id": id, "type": "row", "title": r.title, "collapsed": false, "panels": []any{},
			"gridPos": object{"x": 0, "y": y, "w": 24, "h": 1},
		})
		y++
		x, tallest := 0, 0
		for _, p := range r.panels {
			if p.width == 0 {
				p.width, p.height = 8, 8
			}
			if x+p.width > 24 {
				x, y, tallest = 0, y+tallest, 0
			}
			id++
			panels = append(panels, p.render(id, x, y))
			x, tallest = x+p.width, max(tallest, p.height)
		}
		y += tallest
	}
	dashboard := object{
		"uid": "restante", "title": "Restante", "tags": []string{"restante"},
		"description":   "Do messages get through, how fast, to whom, and what hurts. Generated: see internal/observe.",
		"schemaVersion": 41, "version": 1, "editable": true, "graphTooltip": 1, "timezone": "browser",
		"time": object{"from": "now-3h", "to": "now"}, "refresh": "30s", "timepicker": object{}, "fiscalYearStartMonth": 0,
		"links": []any{}, "panels": panels,
		"templating": object{"list": []any{
			object{
				"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
				"hide": 0, "includeAll": false, "multi": false, "refresh": 1, "regex": "", "options": []any{}, "current": object{}, "skipUrlSync": false,
			},
			object{
				"name": "replica", "label": "Replica", "type": "query", "datasource": source,
				"definition": `label_values(up{job="restante"}, instance)`,
				"query":      object{"query": `label_values(up{job="restante"}, instance)`, "refId": "replicas"},
				"hide":       0, "includeAll": true, "allValue": ".*", "multi": true, "refresh": 2, "sort": 1, "regex": "", "options": []any{}, "skipUrlSync": false,
				"current": object{"selected": true, "text": []string{"All"}, "value": []string{"$__all"}},
			},
		}},
		"annotations": object{"list": []any{object{
			"name": "Replica started", "datasource": source, "enable": true, "hide": false, "iconColor": "blue",
			"expr": replicaStarted, "step": "60s", "titleFormat": "Replica started", "textFormat": "{{instance}}", "tagKeys": "", "useValueForTime": false,
		}}},
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(dashboard); err != nil {
		panic(err) // it is made of strings and numbers
	}
	return b.Bytes()
}

func (p panel) render(id, x, y int) object {
	if p.kind == "" {
		p.kind = series
	}
	var targets []any
	for i, q := range p.queries {
		target := object{
			"refId": string(rune('A' + i)), "datasource": source, "expr": q.expr, "legendFormat": q.legend,
			"editorMode": "code", "range": true, "instant": false,
		}
		if p.kind == heatmap {
			target["format"] = "heatmap"
		}
		targets = append(targets, target)
	}
	defaults, options := p.look()
	defaults["unit"] = p.unit
	overrides := []any{}
	for _, q := range p.queries {
		if steps := p.own[q.legend]; steps != nil {
			overrides = append(overrides, object{
				"matcher":    object{"id": "byName", "options": q.legend},
				"properties": []any{object{"id": "thresholds", "value": thresholds(steps)}},
			})
		}
	}
	return object{
		"id": id, "type": string(p.kind), "title": p.title, "description": p.about, "datasource": source,
		"gridPos": object{"x": x, "y": y, "w": p.width, "h": p.height}, "targets": targets, "transparent": false,
		"fieldConfig": object{"defaults": defaults, "overrides": overrides}, "options": options,
	}
}

// thresholds are steps as Grafana has them; the first has no lower end.
func thresholds(steps []step) object {
	all := []any{object{"color": green, "value": nil}}
	for i, s := range steps {
		if i == 0 {
			all[0] = object{"color": s.color, "value": nil}
			continue
		}
		all = append(all, object{"color": s.color, "value": s.from})
	}
	return object{"mode": "absolute", "steps": all}
}

// look is the field configuration and the options of each kind of panel.
func (p panel) look() (defaults, options object) {
	thresholds := thresholds(p.steps)
	switch p.kind {
	case stat:
		text := "value"
		if len(p.queries) > 1 {
			text = "value_and_name"
		}
		return object{"thresholds": thresholds, "color": object{"mode": "thresholds"}, "min": 0}, object{
			"colorMode": "background", "graphMode": "area", "justifyMode": "auto", "textMode": text, "orientation": "auto", "wideLayout": true,
			"reduceOptions": object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		}
	case heatmap:
		return object{"custom": object{"hideFrom": nothing(), "scaleDistribution": object{"type": "linear"}}}, object{
			"calculate": false, "cellGap": 1, "showValue": "never", "rowsFrame": object{"layout": "auto"}, "filterValues": object{"le": 1e-9},
			"color":  object{"mode": "scheme", "scheme": "Oranges", "fill": "dark-orange", "scale": "exponential", "exponent": 0.5, "steps": 64, "reverse": false},
			"yAxis":  object{"axisPlacement": "left", "reverse": false, "unit": p.unit},
			"legend": object{"show": true}, "tooltip": object{"mode": "single", "yHistogram": false, "showColorScale": false},
			"exemplars": object{"color": "rgba(255,0,255,0.7)"},
		}
	case timeline:
		firing := []any{object{"type": "value", "options": object{"1": object{"text": "firing", "color": red, "index": 0}}}}
		return object{"mappings": firing, "thresholds": thresholds, "color": object{"mode": "thresholds"}, "noValue": "none",
				"custom": object{"fillOpacity": 70, "lineWidth": 0, "hideFrom": nothing()}}, object{
				"mergeValues": true, "showValue": "never", "alignValue": "left", "rowHeight": 0.9,
				"legend":  object{"displayMode": "list", "placement": "bottom", "showLegend": false, "calcs": []string{}},
				"tooltip": object{"mode": "single", "sort": "none"},
			}
	}
	stacking, fill, style := "none", 5, "off"
	if p.stack {
		stacking, fill = "normal", 30
	}
	if p.line {
		style = "dashed"
	}
	return object{"thresholds": thresholds, "color": object{"mode": "palette-classic"}, "min": 0,
			"custom": object{
				"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "fillOpacity": fill, "gradientMode": "none",
				"showPoints": "never", "spanNulls": false, "axisPlacement": "auto", "axisSoftMin": 0, "hideFrom": nothing(),
				"stacking": object{"mode": stacking, "group": "A"}, "thresholdsStyle": object{"mode": style},
			}}, object{
			"legend":  object{"displayMode": "table", "placement": "bottom", "showLegend": true, "calcs": []string{"lastNotNull", "max"}},
			"tooltip": object{"mode": "multi", "sort": "desc"},
		}
}

func nothing() object { return object{"legend": false, "tooltip": false, "viz": false} }

func TestDashboardIsGenerated(t *testing.T) {
	want := render()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(dashboardFile, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what rows() make; UPDATE_GOLDEN=1 writes it anew", dashboardFile)
	}
}

// TestPanelsExplainThemselves: whoever is woken at three may never have seen this.
func TestPanelsExplainThemselves(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rows() {
		for _, p := range r.panels {
			name := r.title + "/" + string(p.kind) + p.title
			if seen[name] {
				t.Errorf("two panels are called %s", name)
			}
			seen[name] = true
			if len(p.about) < 40 || !strings.HasSuffix(p.about, ".") {
				t.Errorf("%s is not described: %q", name, p.about)
			}
			if p.unit == "" || len(p.queries) == 0 || len(p.queries) > 26 {
				t.Errorf("%s has unit %q and %d queries", name, p.unit, len(p.queries))
			}
			for _, q := range p.queries {
				if q.legend == "" || strings.Contains(q.legend, "__auto") {
					t.Errorf("%s: %s has no legend", name, q.expr)
				}
			}
		}
	}
}
