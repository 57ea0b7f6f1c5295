package devstack

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const installAdvice = `Install the server (version 14 or newer) and try again:
  Debian, Ubuntu:  sudo apt-get install postgresql
  Fedora, RHEL:    sudo dnf install postgresql-server
  macOS:           brew install postgresql@17
or set RESTANTE_PG_BIN to the directory that holds initdb and postgres,
or set DATABASE_URL to a database that already runs.`

// installTimeout bounds the whole installation, waiting for another one
// included: slow mirrors take minutes.
const installTimeout = 10 * time.Minute

// noMainCluster keeps Debian's packaging from creating and starting a cluster
// of its own, on port 5432, when the server package is installed: nobody asked
// for that one. It is read before each cluster creation, and taken away again
// after the installation.
const noMainCluster = "/etc/postgresql-common/createcluster.d/restante-install.conf"

// installPostgres installs the distribution's server packages. It returns false
// without an error where it may not: not root, or no package tool it knows.
func installPostgres(ctx context.Context, out io.Writer) (installed bool, err error) {
	if os.Geteuid() != 0 {
		return false, nil
	}
	install := installWithApt
	if _, err := exec.LookPath("apt-get"); err != nil {
		if _, err := exec.LookPath("dnf"); err != nil {
			return false, nil
		}
		install = installWithDnf
	}
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()

	// Several test processes may find PostgreSQL missing at the same time.
	unlock, err := lockFile(ctx, "/run/restante-install-postgres.lock")
	if err != nil {
		return false, fmt.Errorf("wait for another installation: %w", err)
	}
	defer unlock()
	if searchPostgres(ctx, 0, io.Discard) != "" {
		return true, nil // somebody else did it while we waited
	}
	if err := install(ctx, out); err != nil {
		return false, err
	}
	return true, nil
}

func installWithApt(ctx context.Context, out io.Writer) (err error) {
	fmt.Fprintln(out, "installing PostgreSQL from the distribution's packages (apt-get install postgresql) …")
	if err := os.MkdirAll(filepath.Dir(noMainCluster), 0o755); err != nil {
		return fmt.Errorf("prevent a cluster nobody asked for: %w", err)
	}
	if err := os.WriteFile(noMainCluster, []byte("create_main_cluster = false\n"), 0o644); err != nil {
		return fmt.Errorf("prevent a cluster nobody asked for: %w", err)
	}
	defer func() {
		if removeErr := os.Remove(noMainCluster); removeErr != nil && err == nil {
			err = fmt.Errorf("take the installation's setting away: %w", removeErr)
		}
	}()
	install := []string{"apt-get", "install", "--yes", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300", "postgresql"}
	if runInstaller(ctx, install...) == nil {
		return nil
	}
	// Most often the package lists are missing or old: a fresh image has none.
	if err := runInstaller(ctx, "apt-get", "update"); err != nil {
		return err
	}
	return runInstaller(ctx, install...)
}

func installWithDnf(ctx context.Context, out io.Writer) error {
	fmt.Fprintln(out, "installing PostgreSQL from the distribution's packages (dnf install postgresql-server) …")
	return runInstaller(ctx, "dnf", "install", "--assumeyes", "postgresql-server")
}

func runInstaller(ctx context.Context, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
	// An interrupt lets the package tool leave its database in order.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", command[0], command[1], err, lastLines(output.Bytes(), 8))
	}
	return nil
}
