package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// development is a running server -dev.
type development struct {
	*process
	dir                               string
	page, gateway, issuer, admin, key string
}

// stateDir makes a directory for server -dev. Its PostgreSQL may run as another
// user, who must be able to pass; t.TempDir's are closed.
func stateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "restante-e2e-dev-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

// devFlags lets the kernel choose all ports.
func devFlags(dir string) []string {
	return []string{"-dev", "-dev-dir", dir, "-listen", "127.0.0.1:0", "-admin-listen", "127.0.0.1:0",
		"-dev-issuer-listen", "127.0.0.1:0", "-dev-sample-listen", "127.0.0.1:0"}
}

func startDevelopment(t testing.TB, dir string) *development {
	t.Helper()
	d := &development{process: start(t, nil, "server", devFlags(dir)...), dir: dir}
	d.learn()
	return d
}

// learn reads the addresses from the banner, and the key from the state.
func (d *development) learn() {
	d.t.Helper()
	banner := d.says(d.stdout, `page +(http://\S+)[^\n]*\n +gateway +(http://\S+)\n +issuer +(http://\S+)[^\n]*\n +admin +(http://\S+)`)
	d.page, d.gateway, d.issuer, d.admin = banner[1], banner[2], banner[3], banner[4]
	key, err := os.ReadFile(filepath.Join(d.dir, "api-key"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.key = strings.TrimSpace(string(key))
}

// env is what a user of other ports than the usual ones would export.
func (d *development) env() []string {
	return []string{"RESTANTE_URL=" + d.gateway, "RESTANTE_ISSUER=" + d.issuer, "RESTANTE_SAMPLE_URL=" + d.page, "RESTANTE_API_KEY=" + d.key}
}

// shell starts a command line as a user's shell does, after signing in.
func (d *development) shell(t testing.TB, line string) *process {
	t.Helper()
	return start(t, d.env(), "sh", "-c", "eval `msg auth -p 'Passw0rd!'` && "+line)
}

// pending asks how many messages wait for testUser.
func (d *development) pending(t testing.TB) (n int64) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), "GET", d.gateway+"/v1/users/testUser", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+d.key)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var user struct{ Pending int64 }
	if err := json.NewDecoder(response.Body).Decode(&user); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("GET /v1/users/testUser: %d %v", response.StatusCode, err)
	}
	return user.Pending
}

// send posts through the sample application, and waits until the gateway has it.
func (d *development) send(t testing.TB, text string) {
	t.Helper()
	before := d.pending(t)
	d.shell(t, "exec msg send-message '"+text+"' -w 0").ends(0)
	eventually(t, text+" is pending", func() bool { return d.pending(t) == before+1 })
}

// postgresPID is that of the private PostgreSQL.
func (d *development) postgresPID(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, "postgres", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.SplitN(string(text), "\n", 2)[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// stop is Ctrl-C: everything must be gone, and in order.
func (d *development) stop(t testing.TB) {
	t.Helper()
	postgres := d.postgresPID(t)
	d.signal(syscall.SIGINT)
	d.ends(0)
	if err := syscall.Kill(postgres, 0); err != syscall.ESRCH {
		t.Errorf("PostgreSQL, process %d, is still there (%v)", postgres, err)
	}
	if _, err := os.Stat(filepath.Join(d.dir, "running")); !os.IsNotExist(err) {
		t.Errorf("the state still says that it is running: %v", err)
	}
	if strings.Contains(d.stderr.String(), "level=ERROR") {
		t.Errorf("errors in the log:\n%s", d.stderr)
	}
}

// TestSeedStory is the seed's own test, step by step, with its command names.
func TestSeedStory(t *testing.T) {
	parallel(t)
	dir := stateDir(t)
	d := startDevelopment(t, dir)

	// 1 to 3: create a user, authenticate, connect.
	do(t, d.env(), "msg", "create-user", "-p", "Passw0rd!")
	connection := d.shell(t, "exec msg connect-websocket")
	connection.says(connection.stderr, `Connected as testUser`)

	// 4: a message from a long task arrives.
	d.shell(t, "exec msg send-message 'Asynchronous is cool!' -w 1").ends(0)
	connection.says(connection.stdout, `(?m)^Asynchronous is cool!$`)

	// 5: stop the connection. A client that is stopped between printing and
	// confirming gets the message again; this test wants to see it once.
	eventually(t, "the message is confirmed", func() bool { return d.pending(t) == 0 })
	connection.signal(syscall.SIGINT)
	connection.ends(0)
	if got := connection.stdout.lines(); len(got) != 1 {
		t.Errorf("the connection printed %q", got)
	}

	// 6: five different messages.
	var want []string
	for i := range 5 {
		want = append(want, fmt.Sprintf("Message %d, nobody is there", i+1))
		d.send(t, want[i])
	}

	// 7: reconnect. They are there, in order.
	connection = d.shell(t, "exec msg connect-websocket")
	connection.says(connection.stdout, want[4]+`\n`)
	if got := connection.stdout.lines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("after the reconnect came %q", got)
	}
	eventually(t, "the messages are confirmed", func() bool { return d.pending(t) == 0 })
	connection.signal(syscall.SIGINT)
	connection.ends(0)

	// A client that knows no protocol gets them too.
	d.send(t, "plain")
	connection = d.shell(t, "exec msg connect-websocket -plain -n 1")
	connection.ends(0)
	if got := connection.stdout.String(); got != "plain\n" {
		t.Errorf("a plain connection printed %q", got)
	}
	eventually(t, "the plain message is confirmed", func() bool { return d.pending(t) == 0 })

	d.send(t, "kept over a restart")
	secondStart(t, d)
	d.stop(t)

	// What was sent stays, and who was created.
	d = startDevelopment(t, dir)
	connection = d.shell(t, "exec msg connect-websocket -n 1")
	connection.ends(0)
	if got := connection.stdout.String(); got != "kept over a restart\n" {
		t.Errorf("after the restart came %q", got)
	}
	d.stop(t)
}

// secondStart says what is running already, instead of failing obscurely.
func secondStart(t *testing.T, d *development) {
	t.Helper()
	second := start(t, nil, "server", devFlags(d.dir)...)
	second.ends(1)
	for _, want := range []string{"running already", d.dir, d.gateway, d.page, "msg connect-websocket"} {
		if !strings.Contains(second.stderr.String(), want) {
			t.Errorf("the second start does not say %q:\n%s", want, second.stderr)
		}
	}
	if d.pending(t) != 1 {
		t.Error("the second start disturbed the first")
	}
}

func TestDevelopmentStaysOnThisMachine(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, flag := range []string{"-listen", "-admin-listen", "-dev-issuer-listen", "-dev-sample-listen"} {
		for _, address := range []string{"0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0", "example.com:0"} {
			p := start(t, nil, "server", append(devFlags(dir), flag, address)...)
			p.ends(1)
			if !strings.Contains(p.stderr.String(), flag+" "+address) || !strings.Contains(p.stderr.String(), "loopback") {
				t.Errorf("%s %s: %s", flag, address, p.stderr)
			}
		}
	}
}
