package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"restante/internal/devstack"
)

const installAdvice = `Install it and try again:
  Debian:          sudo apt-get install chromium
  Fedora:          sudo dnf install chromium
  macOS:           brew install --cask chromium
or install Google Chrome.`

// installTimeout bounds the installation, waiting for another one included.
const installTimeout = 5 * time.Minute

// findChromium returns the path of Chromium or Chrome. As root with apt-get it
// installs Chromium when there is none. out receives one line about that.
func findChromium(ctx context.Context, out io.Writer) (string, error) {
	if path := lookUpChromium(); path != "" {
		return path, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return "", errors.New("no Chromium found. " + installAdvice)
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	unlock, err := waitForLock(ctx, "/run/restante-install-chromium.lock")
	if err != nil {
		return "", fmt.Errorf("wait for another installation of Chromium: %w", err)
	}
	defer unlock()
	if path := lookUpChromium(); path != "" {
		return path, nil // somebody else did it while we waited
	}
	fmt.Fprintln(out, "installing Chromium from the distribution's packages (apt-get install chromium) …")
	if err := installChromium(ctx); err != nil {
		return "", fmt.Errorf("no Chromium found, and installing it failed: %w\n%s", err, installAdvice)
	}
	if path := lookUpChromium(); path != "" {
		return path, nil
	}
	return "", errors.New("Chromium was installed, but is not on the PATH. " + installAdvice)
}

func lookUpChromium() string {
	for _, name := range []string{
		"chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
		"/Applications/Chromium.app/Contents/MacOS/Chromium",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
	} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func installChromium(ctx context.Context) error {
	install := []string{"install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "chromium"}
	if apt(ctx, install...) == nil {
		return nil
	}
	// Most often the package lists are missing or old: a fresh image has none.
	if err := apt(ctx, "update"); err != nil {
		return err
	}
	return apt(ctx, install...)
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	// An interrupt lets the package tool leave its database in order.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		text := output.Bytes()
		return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, text[max(0, len(text)-1000):])
	}
	return nil
}

// waitForLock takes a lock file that several test processes want.
func waitForLock(ctx context.Context, path string) (unlock func(), err error) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		unlock, err := devstack.TryLock(path)
		if !errors.Is(err, devstack.ErrLocked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
