package devstack

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"time"
)

// killWait is how long PostgreSQL may take after an immediate shutdown; by
// itself it kills what is left after five seconds.
const killWait = 15 * time.Second

// readyPoll is how often a starting server is asked whether it is ready; it
// takes 40 to 100 ms when there is nothing to recover.
const readyPoll = 20 * time.Millisecond

// process is a child and the goroutine that waits for it. The goroutine ends
// when the child does.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // what Wait said; read after done is closed
}

// startProcess starts cmd from a goroutine that keeps its thread until the child
// has ended: on Linux the kernel stops the child when that thread ends, and an
// unlocked thread may end whenever the runtime likes.
func startProcess(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// result is how the child ended; call it after done is closed.
func (p *process) result() error {
	if p.err == nil {
		return errors.New("exit status 0")
	}
	return p.err
}

// end sends a signal and waits for the child to end, however it ends.
func (p *process) end(ctx context.Context, signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
