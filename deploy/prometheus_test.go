package deploy

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The alerts are rules, each fires for what it is there for and none for a quiet day.
func TestAlerts(t *testing.T) {
	t.Parallel()
	const there = "district/root/usr/share/yaoju-district/prometheus/"
	run(t, nil, "promtool", "check", "rules", there+"alerts.yml")
	run(t, nil, "promtool", "test", "rules", "district/test/alerts.yml")

	text, err := os.ReadFile(there + "prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs(there)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/share/yaoju-district/prometheus", here)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := run(t, nil, "promtool", "check", "config", file); !strings.Contains(out, "rules found") {
		t.Errorf("prometheus.yml does not lead to the alerts:\n%s", out)
	}

	alerts, err := os.ReadFile(there + "alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("district/test/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(string(alerts), "- alert: ")[1:] {
		name, body, _ := strings.Cut(part, "\n")
		if strings.Count(string(tests), name) < 2 {
			t.Errorf("%s is not tried both ways", name)
		}
		for _, want := range []string{"severity: ", "summary: ", "description: "} {
			if !strings.Contains(body, want) {
				t.Errorf("%s has no %s", name, want)
			}
		}
	}
}

// Of the dashboard every question is one that Prometheus understands, no panel lies
// on another, and all ask the data source that the reader chose.
func TestDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("district/root/usr/share/yaoju-district/grafana/yaoju.json")
	if err != nil {
		t.Fatal(err)
	}
	type source struct{ Type, UID string }
	var board struct {
		UID, Title string
		Templating struct {
			List []struct{ Name, Type, Query string }
		}
		Panels []struct {
			ID                       int
			Title, Description, Type string
			Datasource               source
			GridPos                  struct{ X, Y, W, H int }
			Targets                  []struct {
				Expr       string
				RefID      string
				Datasource source
			}
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	if board.UID == "" || board.Title == "" || len(board.Templating.List) != 1 || board.Templating.List[0].Type != "datasource" || board.Templating.List[0].Query != "prometheus" {
		t.Errorf("the dashboard: %q %q %+v", board.UID, board.Title, board.Templating)
	}
	want := source{"prometheus", "${" + board.Templating.List[0].Name + "}"}
	taken, ids := map[[2]int]string{}, map[int]bool{}
	rules := "groups:\n- name: dashboard\n  rules:\n"
	count := 0
	for _, p := range board.Panels {
		if p.Title == "" || p.Description == "" || ids[p.ID] || len(p.Targets) == 0 || p.Datasource != want {
			t.Errorf("panel %d %q: %+v", p.ID, p.Title, p)
		}
		ids[p.ID] = true
		g := p.GridPos
		if g.X < 0 || g.X+g.W > 24 || g.W < 1 || g.H < 1 {
			t.Errorf("%s lies outside", p.Title)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if on := taken[[2]int{x, y}]; on != "" {
					t.Fatalf("%s lies on %s", p.Title, on)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		for _, q := range p.Targets {
			if q.Datasource != want || q.RefID == "" {
				t.Errorf("%s: %+v", p.Title, q)
			}
			rules += fmt.Sprintf("  - record: dashboard:q%d\n    expr: %q\n", count, q.Expr)
			count++
		}
	}
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, nil, "promtool", "check", "rules", file)
}
