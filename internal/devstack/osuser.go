package devstack

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
)

// ErrLocked is returned by TryLock when another process has the lock.
var ErrLocked = errors.New("locked by another process")

// TryLock takes an exclusive lock on a file, created if missing, without
// waiting: ErrLocked if another holder has it, in this process or another. The
// lock ends with unlock or with this process.
func TryLock(path string) (unlock func(), err error) { return tryLockFile(path) }

// osUser is the user PostgreSQL runs as.
type osUser struct {
	name     string
	uid, gid int
}

// serverUser returns whom to run PostgreSQL as: nil for ourselves, or, since it
// refuses to run as root, the packages' user or nobody.
func serverUser() (*osUser, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(found.Uid)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		gid, err := strconv.Atoi(found.Gid)
		if err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &osUser{name: name, uid: uid, gid: gid}, nil
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is neither a user postgres nor nobody to run it as")
}

// ownDir creates dir, readable and writable by the server's user alone. A
// directory that is there already and belongs to somebody else is refused: in a
// shared place it may be a trap.
func ownDir(dir string, as *osUser) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeOwnDir(dir, as); err != nil {
			return err
		}
		info, err = os.Lstat(dir)
	}
	if err != nil {
		return err
	}
	uid := os.Geteuid()
	if as != nil {
		uid = as.uid
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if owner, ok := fileOwner(info); ok && owner != uid {
		return fmt.Errorf("%s belongs to user id %d, not to %d who would run PostgreSQL: remove it or choose another directory", dir, owner, uid)
	}
	if info.Mode().Perm() != 0o700 {
		return os.Chmod(dir, 0o700)
	}
	return nil
}

// makeOwnDir makes dir beside its place and renames it, so that nobody finds one
// that has not been given to its owner yet: a second starter that looked in between
// took it for somebody else's.
func makeOwnDir(dir string, as *osUser) error {
	fresh, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-")
	if err != nil {
		return err
	}
	if as != nil {
		err = os.Lchown(fresh, as.uid, as.gid)
	}
	if err == nil {
		err = os.Rename(fresh, dir)
	}
	if err == nil {
		return nil
	}
	if _, other := os.Lstat(dir); other == nil {
		err = nil // somebody else was faster
	}
	return errors.Join(err, os.Remove(fresh))
}

// checkReachable makes sure that the server's user can enter dir: postgres
// itself would only say "permission denied".
func checkReachable(dir string, as *osUser) error {
	if as == nil {
		return nil
	}
	for {
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		if owner, ok := fileOwner(info); ok {
			needed := fs.FileMode(0o001)
			if owner == as.uid {
				needed = 0o100
			}
			if info.Mode().Perm()&needed == 0 {
				return fmt.Errorf("PostgreSQL runs as user %s, who may not enter %s: chmod o+x it or choose another directory", as.name, dir)
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}

// lastLines returns at most n lines from the end of text.
func lastLines(text []byte, n int) []byte {
	text = bytes.TrimRight(text, "\n")
	at := len(text)
	for range n {
		next := bytes.LastIndexByte(text[:at], '\n')
		if next < 0 {
			return text
		}
		at = next
	}
	return text[at+1:]
}
