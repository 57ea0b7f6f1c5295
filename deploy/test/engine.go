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
	host   string    // DOCKER_HOST, "" for the default
	daemon *exec.Cmd // nil if it is not ours
	data   string    // of our own
}

const (
	engineWithin = time.Minute
	stopWithin   = 30 * time.Second
)

// findEngine returns an engine that answers, or a reason to skip.
func findEngine(ctx context.Context, dir string) (*engine, error) {
	if answers(ctx, os.Getenv("DOCKER_HOST")) {
		return &engine{host: os.Getenv("DOCKER_HOST")}, nil
	}
	if os.Geteuid() != 0 {
		return nil, skipped("no Docker engine answers, and only root can start one")
	}
	if err := install(ctx); err != nil {
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

// install gets the distribution's engine where there is none yet.
func install(ctx context.Context) error {
	var missing []string
	for program, pkg := range map[string]string{"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if !composeInstalled(ctx) {
		missing = append(missing, "docker-compose")
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		missing = append(missing, "debootstrap") // what stand-ins for base images are made with
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return skipped("no Docker engine answers, and %v cannot be installed without apt-get", missing)
	}
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, missing...)} {
		apt := exec.CommandContext(ctx, "apt-get", args...)
		apt.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := apt.CombinedOutput(); err != nil {
			return skipped("no Docker engine answers, and apt-get %s failed: %s", args[0], last(string(out)))
		}
	}
	return nil
}

func composeInstalled(ctx context.Context) bool {
	if _, err := exec.LookPath("docker-compose"); err == nil {
		return true
	}
	return exec.CommandContext(ctx, "docker", "compose", "version").Run() == nil
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
	e := &engine{host: "unix://" + filepath.Join(dir, "docker.sock"), data: data}
	e.daemon = exec.Command("dockerd", "--data-root", data, "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "dockerd.pid"), "--host", e.host)
	e.daemon.Stdout, e.daemon.Stderr = logFile, logFile
	e.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us; we stop it
	if err := e.daemon.Start(); err != nil {
		return nil, errors.Join(skipped("dockerd does not start: %v", err), os.RemoveAll(data))
	}
	for until := time.Now().Add(engineWithin); time.Now().Before(until) && ctx.Err() == nil; {
		if answers(ctx, e.host) {
			return e, nil
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			break
		}
	}
	text, _ := os.ReadFile(logFile.Name()) // for the reason only
	return nil, errors.Join(skipped("dockerd does not work here: %s", last(string(text))), e.stop())
}

// stop ends our own dockerd and removes what it kept.
func (e *engine) stop() error {
	if e.daemon == nil {
		return nil
	}
	if err := e.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop dockerd: %w", err)
	}
	timer := time.AfterFunc(stopWithin, func() { e.daemon.Process.Kill() }) // Wait says so
	defer timer.Stop()
	return errors.Join(e.daemon.Wait(), os.RemoveAll(e.data))
}
