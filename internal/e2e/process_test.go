package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// process is a child of this test.
type process struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	done   chan struct{} // closed when it has ended
}

// output is what a child wrote so far.
type output struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{} // closed and replaced at each write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.text.Write(p)
}

func (o *output) String() string {
	text, _ := o.read()
	return text
}

func (o *output) read() (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String(), o.changed
}

// lines returns the complete lines.
func (o *output) lines() []string {
	text := o.String()
	end := strings.LastIndexByte(text, '\n')
	if end < 0 {
		return nil
	}
	return strings.Split(text[:end], "\n")
}

// start starts a program of ours, or of the system's. It is killed at the end of
// the test if it still runs.
func start(t testing.TB, env []string, name string, args ...string) *process {
	t.Helper()
	if err := lookAtSources(); err != nil {
		t.Fatalf("look at the sources: %v", err)
	}
	path := filepath.Join(binDir, name)
	if _, err := os.Stat(path); err != nil {
		path = name
	}
	p := &process{t: t, name: name, cmd: exec.Command(path, args...), stdout: newOutput(), stderr: newOutput(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.Env = append(cleanEnviron(), env...)
	p.cmd.SysProcAttr = childAttributes()
	// A grandchild that keeps the pipe must not keep the test.
	p.cmd.WaitDelay = 5 * time.Second
	started := make(chan error, 1)
	go func() {
		// On Linux a child is stopped when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait() // the exit code tells
		close(p.done)
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s %s\nstdout: %s\nstderr: %s", name, strings.Join(args, " "), tail(p.stdout), tail(p.stderr))
		}
	})
	return p
}

// cleanEnviron is the environment without what would configure our programs, and
// with our programs in front of all others.
func cleanEnviron() []string {
	var env []string
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		switch {
		case strings.HasPrefix(name, "RESTANTE_"), strings.HasPrefix(name, "PG"), name == "DATABASE_URL", name == "ID_TOKEN":
		case name == "PATH":
			env = append(env, "PATH="+binDir+string(os.PathListSeparator)+value)
		default:
			env = append(env, v)
		}
	}
	return env
}

func tail(o *output) string {
	text := o.String()
	return text[max(0, len(text)-6000):]
}

// says waits until the output matches, and returns the submatches.
func (p *process) says(o *output, pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		text, changed := o.read()
		if found := re.FindStringSubmatch(text); found != nil {
			return found
		}
		select {
		case <-changed:
		case <-p.done:
			if found := re.FindStringSubmatch(o.String()); found != nil {
				return found
			}
			p.t.Fatalf("%s ended with code %d before it said %s", p.name, p.code(), pattern)
		case <-deadline.C:
			p.t.Fatalf("%s has not said %s", p.name, pattern)
		}
	}
}

// signal sends a signal; one to a process that has ended is lost.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && p.alive() {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// code is the exit code: -1 for a process that a signal has ended. Call it after
// done.
func (p *process) code() int { return p.cmd.ProcessState.ExitCode() }

// ends waits for the end and checks the exit code.
func (p *process) ends(want int) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("%s has not ended", p.name)
	}
	if got := p.code(); got != want {
		p.t.Fatalf("%s ended with code %d, want %d", p.name, got, want)
	}
}

// kill ends the process as a crash would, and waits.
func (p *process) kill() {
	if p.alive() {
		_ = p.cmd.Process.Kill() // it may have ended just now
		<-p.done
	}
}

// do runs a program to its end, which must be a good one, and returns what
// it wrote to its standard output.
func do(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	p := start(t, env, name, args...)
	p.ends(0)
	return p.stdout.String()
}
