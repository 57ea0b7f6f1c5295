package devstack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Backup copies a running Postgres, with pg_basebackup, into the state directory dir:
// StartPostgres runs what it finds there. Arguments are added to pg_basebackup's; with
// -R the copy starts as a standby of this one. The settings need max_wal_senders and
// wal_level=replica.
func (p *Postgres) Backup(ctx context.Context, dir string, arguments ...string) error {
	paths, err := choosePaths(dir)
	if err != nil {
		return err
	}
	if err := paths.prepare(p.user); err != nil {
		return fmt.Errorf("back up PostgreSQL: %w", err)
	}
	if err := ownDir(paths.data, p.user); err != nil {
		return fmt.Errorf("back up PostgreSQL: %w", err)
	}
	return p.Tool(ctx, "pg_basebackup", append([]string{"-D", paths.data, "-X", "stream", "-c", "fast", "--no-sync"}, arguments...)...)
}

// Tool runs one of PostgreSQL's programs against this Postgres, as the server's user.
func (p *Postgres) Tool(ctx context.Context, name string, arguments ...string) error {
	binDir := p.config.BinDir
	// The directory on PATH may have links to a few of the programs; their targets have
	// the others beside them.
	if real, err := filepath.EvalSymlinks(filepath.Join(binDir, "postgres")); err == nil {
		binDir = filepath.Dir(real)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(binDir, name), append([]string{"-h", p.paths.socket, "-p", socketPort, "-U", superuser}, arguments...)...)
	cmd.Dir = p.paths.socket // the server's user may be there
	cmd.Env = serverEnv()
	runAs(cmd, p.user)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	process, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	<-process.done // bounded by ctx
	if process.err != nil {
		return fmt.Errorf("%s: %w\n%s", name, process.err, lastLines(output.Bytes(), 10))
	}
	return nil
}

// Replace puts a copy made by Backup in the place of a stopped Postgres's data.
func (p *Postgres) Replace(dir string) error {
	old := p.paths.data + ".replaced"
	if err := os.Rename(p.paths.data, old); err != nil {
		return fmt.Errorf("replace PostgreSQL's data: %w", err)
	}
	if err := os.Rename(DataDirectory(dir), p.paths.data); err != nil {
		return fmt.Errorf("replace PostgreSQL's data: %w", err)
	}
	return os.RemoveAll(old)
}
