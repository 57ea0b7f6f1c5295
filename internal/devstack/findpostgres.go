package devstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// MinPostgres is the oldest major version of PostgreSQL that will do.
const MinPostgres = 14

// PostgresBinEnv names the environment variable that chooses the directory of
// PostgreSQL's binaries. When it is set nothing else is searched.
const PostgresBinEnv = "RESTANTE_PG_BIN"

// ErrNoPostgres is wrapped by the error of FindPostgres when no usable
// PostgreSQL is installed. The error's text says what to install.
var ErrNoPostgres = errors.New("no usable PostgreSQL found")

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// FindPostgres returns the directory that holds initdb and postgres, version
// MinPostgres or newer. It looks in $RESTANTE_PG_BIN, PATH, pg_config's answer,
// and where Debian, Fedora and Homebrew put them. With install, and as root, it
// installs the distribution's packages when there is none. out receives
// progress and what was passed over, one line each.
func FindPostgres(ctx context.Context, install bool, out io.Writer) (binDir string, err error) {
	if dir := os.Getenv(PostgresBinEnv); dir != "" {
		major, err := binariesVersion(ctx, dir)
		if err != nil {
			return "", fmt.Errorf("%s=%s: %w", PostgresBinEnv, dir, err)
		}
		if major < MinPostgres {
			return "", fmt.Errorf("%s=%s: PostgreSQL %d is too old, %d or newer is needed", PostgresBinEnv, dir, major, MinPostgres)
		}
		return dir, nil
	}
	if dir := searchPostgres(ctx, 0, out); dir != "" {
		return dir, nil
	}
	if install {
		installed, err := installPostgres(ctx, out)
		if err != nil {
			return "", fmt.Errorf("%w, and installing it failed: %w. %s", ErrNoPostgres, err, installAdvice)
		}
		if installed {
			if dir := searchPostgres(ctx, 0, out); dir != "" {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("%w. %s", ErrNoPostgres, installAdvice)
}

// searchPostgres returns the first usable directory, of exactly the major
// version wanted unless that is 0; "" if there is none.
func searchPostgres(ctx context.Context, wanted int, out io.Writer) string {
	return firstUsable(ctx, candidates(ctx), wanted, out)
}

func firstUsable(ctx context.Context, dirs []string, wanted int, out io.Writer) string {
	for _, dir := range dirs {
		major, err := binariesVersion(ctx, dir)
		switch {
		case err != nil:
			continue // not a server's directory: a client-only installation has no initdb
		case major < MinPostgres:
			fmt.Fprintf(out, "passing over PostgreSQL %d in %s: %d or newer is needed\n", major, dir, MinPostgres)
		case wanted == 0 || major == wanted:
			return dir
		}
	}
	return ""
}

// candidates lists the directories worth a look, best first.
func candidates(ctx context.Context) []string {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
		// A link on PATH may stand for initdb alone; its target has the rest.
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	if path, err := exec.LookPath("pg_config"); err == nil {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		if text, err := exec.CommandContext(ctx, path, "--bindir").Output(); err == nil {
			dirs = append(dirs, strings.TrimSpace(string(text)))
		}
		cancel()
	}
	dirs = append(dirs, newestFirst("/usr/lib/postgresql/*/bin")...)
	dirs = append(dirs, newestFirst("/usr/pgsql-*/bin")...)
	dirs = append(dirs, newestFirst("/opt/homebrew/opt/postgresql@*/bin")...)
	dirs = append(dirs, newestFirst("/usr/local/opt/postgresql@*/bin")...)
	dirs = append(dirs,
		"/opt/homebrew/opt/postgresql/bin",
		"/usr/local/opt/postgresql/bin",
		"/Applications/Postgres.app/Contents/Versions/latest/bin",
		"/usr/local/pgsql/bin")
	return dirs
}

// newestFirst expands a pattern with one number in it, highest number first.
func newestFirst(pattern string) []string {
	dirs, _ := filepath.Glob(pattern) // the only error is a malformed pattern
	prefix, suffix, _ := strings.Cut(pattern, "*")
	number := func(dir string) int {
		n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(dir, prefix), suffix))
		return n
	}
	slices.SortFunc(dirs, func(a, b string) int { return cmp.Compare(number(b), number(a)) })
	return dirs
}

// binariesVersion returns the major version of the server in dir, or an error
// when initdb or postgres is missing or does not run.
func binariesVersion(ctx context.Context, dir string) (int, error) {
	if _, err := exec.LookPath(filepath.Join(dir, "initdb")); err != nil {
		return 0, fmt.Errorf("find initdb: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("ask postgres for its version: %w", err)
	}
	found := versionPattern.FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("ask postgres for its version: unexpected answer %q", text)
	}
	major, err := strconv.Atoi(string(found[1]))
	if err != nil {
		return 0, fmt.Errorf("ask postgres for its version: %w", err)
	}
	return major, nil
}
