package devstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	superuser  = "postgres" // the database's, whoever the system's is
	socketPort = "5432"     // only part of the socket's name: no TCP port is opened

	// maxSocketPath is the shortest limit among the systems we know: macOS has
	// 104 bytes with the final NUL, Linux 108.
	maxSocketPath = 103

	// maxLog is how much of PostgreSQL's log is kept when it is started again.
	maxLog = 8 << 20
)

// postgresPaths is the layout of a Postgres's directory.
type postgresPaths struct {
	dir    string // ours
	data   string // the server's user alone
	socket string // directory of the socket; the server's user alone
	log    string
	lock   string // held while starting
}

// choosePaths lays out dir. Where dir is too long for a unix socket, or has a comma,
// which separates hosts in a connection URL, the socket goes to a directory of its own
// below the system's temporary one, whose name follows from dir, so that another
// process finds it too.
func choosePaths(dir string) (postgresPaths, error) {
	if dir == "" {
		return postgresPaths{}, errors.New("PostgresConfig.Dir is empty")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return postgresPaths{}, err
	}
	paths := postgresPaths{
		dir:    dir,
		data:   DataDirectory(dir),
		socket: filepath.Join(dir, "socket"),
		log:    filepath.Join(dir, "postgres.log"),
		lock:   filepath.Join(dir, "start.lock"),
	}
	socketFits := func() bool {
		path := filepath.Join(paths.socket, ".s.PGSQL."+socketPort)
		return len(path) <= maxSocketPath && !strings.Contains(path, ",")
	}
	if !socketFits() {
		sum := sha256.Sum256([]byte(dir))
		paths.socket = filepath.Join(os.TempDir(), fmt.Sprintf("restante-pg-%x", sum[:6]))
		if !socketFits() {
			return postgresPaths{}, fmt.Errorf("neither %s nor %s can hold a unix socket: choose a shorter directory, without a comma", dir, os.TempDir())
		}
	}
	return paths, nil
}

// prepare creates the directories that PostgreSQL does not create itself.
func (paths postgresPaths) prepare(as *osUser) error {
	if err := os.MkdirAll(paths.dir, 0o755); err != nil {
		return err
	}
	if err := checkReachable(paths.dir, as); err != nil {
		return err
	}
	return ownDir(paths.socket, as)
}

// removeLeftovers removes the marks of a server that did not clean up. Only for
// a data directory that no process works in: PostgreSQL itself goes by the pid
// in these files, and refuses to start when something else has that pid now.
func (paths postgresPaths) removeLeftovers() error {
	for _, path := range []string{
		filepath.Join(paths.data, "postmaster.pid"),
		filepath.Join(paths.socket, ".s.PGSQL."+socketPort),
		filepath.Join(paths.socket, ".s.PGSQL."+socketPort+".lock"),
	} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// openLog opens PostgreSQL's log for appending; a long one is set aside first.
func (paths postgresPaths) openLog() (*os.File, error) {
	if info, err := os.Stat(paths.log); err == nil && info.Size() > maxLog {
		if err := os.Rename(paths.log, paths.log+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(paths.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// logTail returns the last lines of the log, or why it cannot be read.
func (paths postgresPaths) logTail() []byte {
	const tail = 4 << 10
	file, err := os.Open(paths.log)
	if err != nil {
		return []byte(err.Error())
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > tail {
		if _, err := file.Seek(-tail, io.SeekEnd); err != nil {
			return []byte(err.Error())
		}
	}
	text, err := io.ReadAll(io.LimitReader(file, tail))
	if err != nil {
		return []byte(err.Error())
	}
	return lastLines(text, 10)
}

// create makes the data directory with initdb, unless it is there. It is made
// beside its place and renamed, so that an interrupted initdb leaves nothing
// that looks finished.
func (p *Postgres) create(ctx context.Context) error {
	if exists(filepath.Join(p.paths.data, "PG_VERSION")) {
		return nil
	}
	// The directory itself may have been made by hand; rename needs it gone,
	// and Remove refuses if anything is in it.
	if err := os.Remove(p.paths.data); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not a PostgreSQL data directory: %w", p.paths.data, err)
	}
	fmt.Fprintf(p.config.Out, "creating a private PostgreSQL in %s …\n", p.paths.dir)
	partial := p.paths.data + ".partial"
	// C.UTF-8 sorts by code point like C and knows what a letter is; where the
	// system lacks it, C does.
	var failed error
	for _, locale := range []string{"C.UTF-8", "C"} {
		if err := os.RemoveAll(partial); err != nil {
			return err
		}
		if err := ownDir(partial, p.user); err != nil {
			return err
		}
		if failed = p.initdb(ctx, partial, locale); failed == nil {
			return os.Rename(partial, p.paths.data)
		}
	}
	return failed
}

func (p *Postgres) initdb(ctx context.Context, dir, locale string) error {
	args := []string{"-D", dir, "-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=" + locale}
	if p.config.Unsafe {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.config.BinDir, "initdb"), args...)
	cmd.Dir = p.paths.dir
	cmd.Env = serverEnv()
	runAs(cmd, p.user)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	process, err := startProcess(cmd)
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	<-process.done // bounded by ctx: the command is killed with it
	if process.err != nil {
		return fmt.Errorf("initdb: %w\n%s", process.err, lastLines(output.Bytes(), 10))
	}
	return nil
}

// binariesForData returns the binaries to run the data directory with: those
// configured, if they are of the version that made it.
func (p *Postgres) binariesForData(ctx context.Context) (string, error) {
	text, err := os.ReadFile(filepath.Join(p.paths.data, "PG_VERSION"))
	if err != nil {
		return "", err
	}
	made, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return "", fmt.Errorf("read PG_VERSION: %w", err)
	}
	have, err := binariesVersion(ctx, p.config.BinDir)
	if err != nil {
		return "", err
	}
	if have == made {
		return p.config.BinDir, nil
	}
	if dir := searchPostgres(ctx, made, io.Discard); dir != "" {
		return dir, nil
	}
	return "", fmt.Errorf("%s was made by PostgreSQL %d, and only %d is installed: install version %d, or move the directory away to begin with an empty database", p.paths.data, made, have, made)
}

// settings returns the server's settings. The defaults are those of a small
// production server; Unsafe is for tests.
func (p *Postgres) settings() map[string]string {
	settings := map[string]string{
		"listen_addresses": "",
		"port":             socketPort,
		// A list, whose items may be quoted: a comma is part of the name then.
		"unix_socket_directories": `"` + strings.ReplaceAll(p.paths.socket, `"`, `""`) + `"`,
		"unix_socket_permissions": "0700",
		"max_connections":         "200",
		"shared_buffers":          "256MB",
		"jit":                     "off", // all statements are short
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"log_line_prefix":         "%m [%p] %q%a@%d ",
		"log_checkpoints":         "off",
		// Nobody replicates from here: less to write. Checkpoints far apart
		// mean fewer whole pages in the log.
		"wal_level":          "minimal",
		"max_wal_senders":    "0",
		"max_wal_size":       "2GB",
		"wal_compression":    "on",
		"checkpoint_timeout": "15min",
	}
	if p.config.Unsafe {
		settings["fsync"] = "off"
		settings["synchronous_commit"] = "off"
		settings["full_page_writes"] = "off"
		settings["shared_buffers"] = "64MB"
	}
	for name, value := range p.config.Settings {
		settings[name] = value
	}
	return settings
}

func serverCommand(binDir string, paths postgresPaths, settings map[string]string, log io.Writer) *exec.Cmd {
	args := []string{"-D", paths.data}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		args = append(args, "-c", name+"="+settings[name])
	}
	cmd := exec.Command(filepath.Join(binDir, "postgres"), args...)
	cmd.Dir = paths.dir
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = log, log
	return cmd
}

// serverEnv is what the server sees of our environment: no PG variable, no
// locale of the terminal's, no secret.
func serverEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
}
