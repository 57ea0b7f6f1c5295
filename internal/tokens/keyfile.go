package tokens

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// maxKeyringBytes bounds what is read as a keyring; a full one has about 5 KB.
const maxKeyringBytes = 64 << 10

// ReadFile reads and checks the keyring at path. The first key is the one that
// issues.
//
// A file that its group or others may write is refused: whoever can add a key
// can write a token for any user. One that others may only read is accepted,
// because mounted container secrets look like that; a [Keyring] warns about it.
func ReadFile(path string) ([]Key, error) {
	text, _, err := readKeyring(path)
	if err != nil {
		return nil, err
	}
	keys, err := ParseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keys, nil
}

// readKeyring returns the file's text, and whether everybody may read it.
func readKeyring(path string) (text []byte, public bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, false, fmt.Errorf("read keyring: %w", err)
	}
	// Asked before opening: to open a pipe is to wait for its writer.
	if !info.Mode().IsRegular() {
		return nil, false, fmt.Errorf("read keyring: %s is not a regular file", path)
	}
	if info.Mode().Perm()&0o022 != 0 {
		return nil, false, fmt.Errorf("read keyring: %s may be written by its group or by others (mode %04o), who could sign in as anybody; run: chmod 600 %s",
			path, info.Mode().Perm(), path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, false, fmt.Errorf("read keyring: %w", err)
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, maxKeyringBytes+1))
	if err != nil {
		return nil, false, fmt.Errorf("read keyring: %w", err)
	}
	if len(text) > maxKeyringBytes {
		return nil, false, fmt.Errorf("read keyring: %s is longer than %d bytes", path, maxKeyringBytes)
	}
	return text, info.Mode().Perm()&0o004 != 0, nil
}

// WriteFile writes a keyring with mode 0600. A reader, and a crash at any
// moment, finds either the old file or the new one, whole. An existing file is
// replaced; a symbolic link is followed, so that the file it points to is.
func WriteFile(path string, keys []Key) error {
	if err := checkKeys(keys); err != nil {
		return err
	}
	text, err := formatKeys(keys)
	if err != nil {
		return err
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write keyring: %w", err)
	}
	dir := filepath.Dir(path)
	// CreateTemp makes files with mode 0600.
	tmp, err := os.CreateTemp(dir, ".keyring-*")
	if err != nil {
		return fmt.Errorf("write keyring: %w", err)
	}
	defer os.Remove(tmp.Name()) // nothing is there any more when all went well
	_, err = io.Copy(tmp, bytes.NewReader(text))
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return fmt.Errorf("write keyring: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return fmt.Errorf("write keyring: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write keyring: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write keyring: %w", err)
	}
	return nil
}

// AddKey adds a key to the keyring at path: in front, where it issues from now
// on, or at the end, where it opens tokens only.
//
// AddKey, PromoteKey and RemoveKey read, change and write the file: of two that
// run at the same time, one is lost.
func AddKey(path string, key Key, issue bool) error {
	keys, err := ReadFile(path)
	if err != nil {
		return err
	}
	if issue {
		keys = slices.Insert(keys, 0, key)
	} else {
		keys = append(keys, key)
	}
	return WriteFile(path, keys)
}

// PromoteKey puts the key with this ID in front: it issues from now on.
func PromoteKey(path, id string) error {
	keys, i, err := findKey(path, id)
	if err != nil {
		return err
	}
	key := keys[i]
	return WriteFile(path, slices.Insert(slices.Delete(keys, i, i+1), 0, key))
}

// RemoveKey drops the key with this ID. Tokens it has written are rejected from
// then on, which is what you want after a leak; otherwise wait until the last
// of them has expired. The only key of a keyring is not removed.
func RemoveKey(path, id string) error {
	keys, i, err := findKey(path, id)
	if err != nil {
		return err
	}
	if len(keys) == 1 {
		return fmt.Errorf("%s: %q is the only key of the keyring; add another one first", path, id)
	}
	return WriteFile(path, slices.Delete(keys, i, i+1))
}

func findKey(path, id string) ([]Key, int, error) {
	keys, err := ReadFile(path)
	if err != nil {
		return nil, 0, err
	}
	i := slices.IndexFunc(keys, func(k Key) bool { return k.ID == id })
	if i < 0 {
		return nil, 0, fmt.Errorf("%s: the keyring has no key %q", path, clip(id, 64))
	}
	return keys, i, nil
}
