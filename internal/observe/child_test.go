package observe

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// child is a process of a test's.
type child struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu  sync.Mutex
	log bytes.Buffer
}

// Write implements io.Writer: the child's output.
func (c *child) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.Write(p)
}

// start starts a program. It is killed at the end of the test if it still runs.
func start(t testing.TB, env []string, path string, args ...string) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(path, args...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = c, c
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); !strings.HasPrefix(name, "RESTANTE_") && !strings.HasPrefix(name, "PG") && name != "DATABASE_URL" {
			c.cmd.Env = append(c.cmd.Env, v)
		}
	}
	c.cmd.Env = append(c.cmd.Env, env...)
	c.cmd.SysProcAttr = childAttributes()
	c.cmd.WaitDelay = 5 * time.Second
	started := make(chan error, 1)
	go func() {
		// On Linux a child is stopped when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // it is killed
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	t.Cleanup(func() {
		c.kill()
		if t.Failed() {
			text := c.text()
			t.Logf("%s: …%s", path, text[max(0, len(text)-2000):])
		}
	})
	return c
}

func (c *child) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.log.String()
}

// kill ends the process as a crash would, and waits.
func (c *child) kill() {
	select {
	case <-c.done:
	default:
		_ = c.cmd.Process.Kill() // it may have ended just now
		<-c.done
	}
}

// says waits until the output matches, and returns the submatches.
func (c *child) says(pattern *regexp.Regexp) (found []string) {
	c.t.Helper()
	eventually(c.t, c.cmd.Path+" says "+pattern.String(), func() bool {
		found = pattern.FindStringSubmatch(c.text())
		select {
		case <-c.done:
			if found == nil {
				c.t.Fatalf("%s has ended: %s", c.cmd.Path, c.text())
			}
		default:
		}
		return found != nil
	})
	return found
}
