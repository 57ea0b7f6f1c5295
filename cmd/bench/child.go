package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// child is a server process of this run. What it says goes to a file, of which
// the end is shown when it fails.
type child struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // how; read after done

	killed bool // by kill: it need not be stopped
}

func startChild(dir, name string, env []string, binary string, args ...string) (*child, error) {
	c := &child{name: name, cmd: exec.Command(binary, args...), log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	log, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own descriptor
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.Env = append(os.Environ(), env...)
	c.cmd.SysProcAttr = childAttributes()
	started := make(chan error, 1)
	go func() {
		// On Linux a child is stopped when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.err = c.cmd.Wait()
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// ready asks until the child answers.
func (c *child) ready(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("%s ended at once (%v):\n%s", c.name, c.err, c.said())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", c.name, err, c.said())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// said is the end of what the child wrote.
func (c *child) said() []byte {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return []byte(err.Error())
	}
	return bytes.TrimSpace(text[max(0, len(text)-2000):])
}

// kill ends the child as a crash would.
func (c *child) kill() error {
	c.killed = true
	err := c.cmd.Process.Kill()
	<-c.done
	return err
}

// stop ends the child as a deploy would, and kills it if it does not go.
func (c *child) stop() error {
	if c.killed {
		return nil
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.done:
	case <-time.After(stopWithin):
		err := c.cmd.Process.Kill()
		<-c.done
		return errors.Join(fmt.Errorf("%s did not stop within %s, the end of its log:\n%s", c.name, stopWithin, c.said()), err)
	}
	if c.err != nil {
		return fmt.Errorf("%s failed (%w), the end of its log:\n%s", c.name, c.err, c.said())
	}
	return nil
}

func goBuild(ctx context.Context, output, path string) error {
	text, err := exec.CommandContext(ctx, "go", "build", "-o", output, path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build %s: %w\n%s", path, err, text)
	}
	return nil
}
