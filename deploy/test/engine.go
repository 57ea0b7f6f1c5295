package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// engine is the Docker engine in use: one that was running, or a dockerd of our own.
type engine struct {
	host   string     // DOCKER_HOST, "" for the default
	daemon *exec.Cmd  // nil if it is not ours
	ended  chan error // of our own, when it has
	data   string     // of our own
	exec   string     // of our own, too
}

const (
	installWithin = 5 * time.Minute
	engineWithin  = 2 * time.Minute
	stopWithin    = time.Minute
)

// findEngine returns an engine that answers, or a reason to skip.
func findEngine(ctx context.Context, dir string) (*engine, error) {
	if host := os.Getenv("DOCKER_HOST"); answers(ctx, host) {
		return &engine{host: host}, install(ctx, nil)
	}
	if os.Geteuid() != 0 {
		return nil, skipped("no Docker engine answers, and only root can start one")
	}
	err := install(ctx, map[string]string{
		"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables",
		"debootstrap": "debootstrap", // what stand-ins for base images are made with
	})
	if err != nil {
		return nil, err
	}
	return startEngine(ctx, dir)
}

// answers reports whether the engine there works.
func answers(ctx context.Context, host string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	info := exec.CommandContext(ctx, "docker", "info")
	info.Env = os.Environ()
	if host != "" {
		info.Env = append(info.Env, "DOCKER_HOST="+host)
	}
	return info.Run() == nil
}

// install gets from the distribution the packages of those programs that are not
// there, and compose.
func install(ctx context.Context, packages map[string]string) error {
	var missing []string
	for program, pkg := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(composeCommands(ctx)) == 0 {
		missing = append(missing, "docker-compose")
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return skipped("%v cannot be installed without root and apt-get", missing)
	}
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, missing...)} {
		ctx, cancel := context.WithTimeout(ctx, installWithin)
		apt := exec.CommandContext(ctx, "apt-get", args...)
		apt.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		out, err := apt.CombinedOutput()
		cancel()
		if err != nil {
			return skipped("%v cannot be installed, apt-get %s failed: %s", missing, args[0], last(string(out)))
		}
	}
	return nil
}

// startEngine starts a dockerd that keeps everything in directories of its own.
func startEngine(ctx context.Context, dir string) (*engine, error) {
	// Images are too big for a tmpfs, which the temporary directory may be.
	data, err := os.MkdirTemp("/var/lib", "restante-dockerd-")
	if err != nil {
		return nil, skipped("no place for a Docker engine's data: %v", err)
	}
	logFile, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	e := &engine{host: "unix://" + filepath.Join(dir, "docker.sock"), data: data, exec: filepath.Join(dir, "exec"), ended: make(chan error, 1)}
	e.daemon = exec.Command("dockerd", "--data-root", data, "--exec-root", e.exec,
		"--pidfile", filepath.Join(dir, "dockerd.pid"), "--host", e.host)
	e.daemon.Stdout, e.daemon.Stderr = logFile, logFile
	e.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we stop it
	if err := e.daemon.Start(); err != nil {
		err = skipped("dockerd does not start: %v", err)
		also(&err, func() error { return os.RemoveAll(data) })
		return nil, err
	}
	go func() { e.ended <- e.daemon.Wait() }()
	for until := time.Now().Add(engineWithin); time.Now().Before(until) && len(e.ended) == 0; {
		if answers(ctx, e.host) {
			return e, nil
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return nil, errors.Join(ctx.Err(), e.stop())
		}
	}
	text, _ := os.ReadFile(logFile.Name()) // for the reason only
	if len(e.ended) > 0 {
		<-e.ended // for that same reason
		e.ended <- nil
	}
	err = skipped("dockerd does not work here: %s", last(string(text)))
	also(&err, e.stop)
	return nil, err
}

// stop ends our own dockerd and removes what it kept.
func (e *engine) stop() error {
	if e.daemon == nil {
		return nil
	}
	if err := e.daemon.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop dockerd: %w", err)
	}
	timer := time.AfterFunc(stopWithin, func() { e.daemon.Process.Kill() }) // ended says so
	defer timer.Stop()
	err := <-e.ended
	// It leaves this mounted when a build has used the host's network.
	if left := filepath.Join(e.exec, "netns", "default"); exec.Command("mountpoint", "-q", left).Run() == nil {
		err = errors.Join(err, exec.Command("umount", left).Run())
	}
	return errors.Join(err, os.RemoveAll(e.data))
}
