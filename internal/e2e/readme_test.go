package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"restante/internal/testdb"
)

// TestReadmeCurl runs the commands of the README's section on the API as they
// are written there, but for the address and the key. The gateway is a server
// -dev on a database that is somebody else's, which it must not stop.
func TestReadmeCurl(t *testing.T) {
	parallel(t)
	script := readmeBlock(t, "API")
	commands := len(regexp.MustCompile(`(?m)^curl `).FindAllString(script, -1))
	if commands < 5 {
		t.Fatalf("the README has %d curl commands:\n%s", commands, script)
	}
	dir := stateDir(t)
	db := testdb.Empty(t)
	d := &development{process: start(t, []string{"DATABASE_URL=" + db.URL}, "server", devFlags(dir)...), dir: dir}
	d.learn()
	do(t, d.env(), "msg", "create-user", "-p", "Passw0rd!")

	key := regexp.MustCompile(`(?m)^KEY=.*$`)
	if !key.MatchString(script) {
		t.Error("the README does not say where the key is")
	}
	script = key.ReplaceAllString(script, "KEY="+d.key)
	script = strings.ReplaceAll(script, "localhost:8080", strings.TrimPrefix(d.gateway, "http://"))
	// The function adds to each command a line with the status.
	script = "set -e\ncurl() { command curl --silent --show-error --max-time 30 --write-out '\\nstatus %{http_code}\\n' \"$@\"; }\n" + script

	p := d.shell(t, fmt.Sprintf("sh -c '%s'", strings.ReplaceAll(script, "'", `'\''`)))
	p.ends(0)
	statuses := regexp.MustCompile(`(?m)^status (\d+)$`).FindAllStringSubmatch(p.stdout.String(), -1)
	if len(statuses) != commands {
		t.Errorf("%d of %d commands were answered:\n%s", len(statuses), commands, p.stdout)
	}
	for i, status := range statuses {
		if status[1][0] != '2' {
			t.Errorf("command %d was answered %s", i+1, status[1])
		}
	}
	for _, want := range []string{`"seq":1`, "Location: /v1/users/testUser/messages/1", `"results":[`, `"pending":`, `"token":"`} {
		if !strings.Contains(p.stdout.String(), want) {
			t.Errorf("no answer has %s", want)
		}
	}
	if t.Failed() {
		t.Logf("%s\n%s", script, p.stdout)
	}
	if err := db.Pool.Ping(t.Context()); err != nil {
		t.Errorf("the database: %v", err)
	}
}

// readmeBlock returns the first shell block below a heading of the README.
func readmeBlock(t *testing.T, heading string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	_, section, found2 := strings.Cut(section, "```sh\n")
	block, _, found3 := strings.Cut(section, "```\n")
	if !found || !found2 || !found3 {
		t.Fatalf("the README has no shell block in section %s", heading)
	}
	return block
}
