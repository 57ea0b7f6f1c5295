package browser

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	startTimeout = 40 * time.Second // PostgreSQL's initdb on a busy machine included
	stopTimeout  = 30 * time.Second
)

// devServer is `server -dev` as a process of its own, with its own state
// directory.
type devServer struct {
	t         testing.TB
	binary    string
	dir       string
	addresses []string // flags
	process   *exec.Cmd
	exited    chan struct{}
	log       *lockedBuffer

	page, gateway, issuer, apiKey string
}

// newServer starts one on free ports. With fixed ports it can be started again
// at the same addresses.
func newServer(t testing.TB, binary string, ports [4]int, flags ...string) *devServer {
	t.Helper()
	dir, err := os.MkdirTemp("", "restante-browser-")
	if err != nil {
		t.Fatal(err)
	}
	// As root, PostgreSQL runs as another user who must get to its files.
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	s := &devServer{t: t, binary: binary, dir: dir, log: &lockedBuffer{}}
	for i, name := range []string{"listen", "admin-listen", "dev-issuer-listen", "dev-sample-listen"} {
		s.addresses = append(s.addresses, fmt.Sprintf("-%s=127.0.0.1:%d", name, ports[i]))
	}
	s.addresses = append(s.addresses, flags...)
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log)
		}
		os.RemoveAll(dir)
	})
	s.start()
	return s
}

// start starts the process and returns when it has said where everything is.
func (s *devServer) start() {
	s.t.Helper()
	cmd := exec.Command(s.binary, append([]string{"-dev", "-dev-dir=" + s.dir, "-drain-spread=1s"}, s.addresses...)...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "DATABASE_URL=") && !strings.HasPrefix(variable, "RESTANTE_") ||
			strings.HasPrefix(variable, "RESTANTE_PG_BIN=") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Stderr = s.log
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	exited, banner := make(chan struct{}), make(chan map[string]string, 1)
	s.process, s.exited = cmd, exited
	go func() {
		readBanner(io.TeeReader(out, s.log), banner)
		_ = cmd.Wait() // how it ended is in its log
		close(exited)
	}()
	select {
	case found := <-banner:
		s.page, s.gateway, s.issuer = found["page"], found["gateway"], found["issuer"]
	case <-exited:
		s.t.Fatal("the server ended before it had started")
	case <-time.After(startTimeout):
		s.t.Fatalf("the server has not started within %v", startTimeout)
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "api-key"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.apiKey = strings.TrimSpace(string(key))
}

var bannerLine = regexp.MustCompile(`^  (page|gateway|issuer) +(http://\S+)`)

// readBanner sends the addresses when the banner's last line has come, and
// reads on until the end, so that the process never waits for us.
func readBanner(out io.Reader, banner chan<- map[string]string) {
	found := make(map[string]string)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if match := bannerLine.FindStringSubmatch(lines.Text()); match != nil {
			found[match[1]] = match[2]
		}
		if strings.HasPrefix(lines.Text(), "Ctrl-C stops") {
			banner <- found
			break
		}
	}
	_, _ = io.Copy(io.Discard, out)
}

// stop interrupts the process, as Ctrl-C does, and waits for its end.
func (s *devServer) stop() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(os.Interrupt) // an error says that it has ended
	select {
	case <-s.exited:
		if code := s.process.ProcessState.ExitCode(); code != 0 {
			s.t.Errorf("interrupted, the server ended with exit code %d", code)
		}
	case <-time.After(stopTimeout):
		s.t.Errorf("interrupted, the server has not stopped within %v", stopTimeout)
		_ = s.process.Process.Kill()
		<-s.exited
	}
	s.process = nil
}

// call makes a request with a JSON body (nil for none) and decodes the answer.
func (s *devServer) call(method, url, authorization string, in, out any) {
	s.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if authorization != "" {
		req.Header.Set("Authorization", "Bearer "+authorization)
	}
	client := http.Client{Timeout: 20 * time.Second}
	response, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		s.t.Fatal(err)
	}
	if response.StatusCode/100 != 2 {
		s.t.Fatalf("%s %s: %s\n%s", method, url, response.Status, text)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			s.t.Fatalf("%s %s: %v\n%s", method, url, err, text)
		}
	}
}

func (s *devServer) createUser(name, password string) {
	s.t.Helper()
	s.call("POST", s.issuer+"/users", "", map[string]string{"username": name, "password": password}, nil)
}

// publish sends one message and returns its seq. ttl 0 is the longest.
func (s *devServer) publish(user string, message any, ttl time.Duration) int {
	s.t.Helper()
	in := map[string]any{"userId": user, "message": message}
	if ttl > 0 {
		in["ttl"] = int(ttl / time.Second)
	}
	var out struct{ Seq int }
	s.call("POST", s.gateway+"/v1/messages", s.apiKey, in, &out)
	return out.Seq
}

// stream is what the gateway says about a user.
type stream struct {
	Connected            bool
	Pending, Head, Acked int
}

// until polls what the gateway says about a user.
func (s *devServer) until(user, what string, condition func(stream) bool) {
	s.t.Helper()
	var now stream
	poll(s.t, func() string { return fmt.Sprintf("%s: %+v", what, now) }, func() bool {
		s.call("GET", s.gateway+"/v1/users/"+user, s.apiKey, nil, &now)
		return condition(now)
	})
}

// waitLimit is how long a condition may take to become true.
const waitLimit = 20 * time.Second

// poll calls condition until it is true; what describes it when it does not.
func poll(t testing.TB, what func() string, condition func() bool) {
	t.Helper()
	deadline := time.After(waitLimit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", waitLimit, what())
		}
	}
}

// fixedPorts finds ports that are free now and that no outgoing connection
// takes in the meantime: below the range that systems use for those.
func fixedPorts(t testing.TB) (ports [4]int) {
	t.Helper()
	for i := range ports {
		for attempt := 0; ; attempt++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(10000)))
			if err == nil {
				defer l.Close()
				ports[i] = l.Addr().(*net.TCPAddr).Port
				break
			}
			if attempt == 100 {
				t.Fatal(errors.Join(errors.New("no free port found"), err))
			}
		}
	}
	return ports
}

// lockedBuffer collects what a process writes.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
