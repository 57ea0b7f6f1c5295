package devstack

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// hashIterations is the usual recommendation for PBKDF2 with SHA-512; a
	// check takes about a tenth of a second.
	hashIterations = 210_000
	hashBytes      = sha512.Size

	maxUserName = 255   // bytes; what OpenID Connect allows in a subject
	maxPassword = 256   // bytes
	maxUsers    = 10000 // the file is rewritten with each new one
)

var (
	errUserExists    = errors.New("there is a user of that name already, with another password")
	errTooManyUsers  = fmt.Errorf("there are %d users already, which is all this issuer keeps", maxUsers)
	errWrongPassword = errors.New("unknown user or wrong password")
)

// badInput is refused by the rules for names and passwords; its text is for the
// person who typed it.
type badInput string

func (e badInput) Error() string { return string(e) }

// account is one entry of the file. The parameters of the hash are kept with it,
// so that they can change.
type account struct {
	Name       string    `json:"username"`
	Algorithm  string    `json:"algorithm"`
	Iterations int       `json:"iterations"`
	Salt       []byte    `json:"salt"`
	Hash       []byte    `json:"hash"`
	CreatedAt  time.Time `json:"createdAt"`
}

const hashAlgorithm = "pbkdf2-sha512"

// userFile is the users, in memory and in a file that is replaced as a whole.
type userFile struct {
	path string

	// Hashing is slow on purpose; a flood of guesses must not take all the CPUs.
	hashing chan struct{}

	mu    sync.Mutex // held while the file is replaced
	users map[string]account
}

func loadUsers(dir string) (*userFile, error) {
	f := &userFile{
		path:    filepath.Join(dir, "issuer-users.json"),
		hashing: make(chan struct{}, 2),
		users:   make(map[string]account),
	}
	text, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	var users []account
	if err := json.Unmarshal(text, &users); err != nil {
		return nil, fmt.Errorf("%s is damaged (remove it to begin without users): %w", f.path, err)
	}
	for _, u := range users {
		if u.Algorithm != hashAlgorithm || u.Iterations < 1 || len(u.Hash) != hashBytes {
			return nil, fmt.Errorf("%s: user %q has a hash this release does not know", f.path, u.Name)
		}
		f.users[u.Name] = u
	}
	return f, nil
}

// create adds a user. created is false if it is there already with the same
// password; with another it is errUserExists.
func (f *userFile) create(ctx context.Context, name, password string) (created bool, err error) {
	if err := checkName(name); err != nil {
		return false, err
	}
	if err := checkPassword(password); err != nil {
		return false, err
	}
	if _, known := f.find(name); known {
		return false, f.same(ctx, name, password)
	}
	fresh := account{Name: name, Algorithm: hashAlgorithm, Iterations: hashIterations, Salt: make([]byte, 16), CreatedAt: time.Now().UTC().Truncate(time.Millisecond)}
	rand.Read(fresh.Salt) // never fails
	if fresh.Hash, err = f.hash(ctx, fresh, password); err != nil {
		return false, err
	}
	added, err := f.add(fresh)
	if err != nil {
		return false, err
	}
	if !added { // somebody else was faster
		return false, f.same(ctx, name, password)
	}
	return true, nil
}

func (f *userFile) same(ctx context.Context, name, password string) error {
	err := f.check(ctx, name, password)
	if errors.Is(err, errWrongPassword) {
		return errUserExists
	}
	return err
}

func (f *userFile) add(fresh account) (added bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, known := f.users[fresh.Name]; known {
		return false, nil
	}
	if len(f.users) >= maxUsers {
		return false, errTooManyUsers
	}
	users := make([]account, 0, len(f.users)+1)
	for _, u := range f.users {
		users = append(users, u)
	}
	text, err := json.MarshalIndent(append(users, fresh), "", "  ")
	if err != nil {
		return false, err
	}
	if err := replaceFile(f.path, text); err != nil {
		return false, err
	}
	f.users[fresh.Name] = fresh
	return true, nil
}

// check returns errWrongPassword unless the user exists and the password is
// right. It takes as long for an unknown user.
func (f *userFile) check(ctx context.Context, name, password string) error {
	u, known := f.find(name)
	if !known {
		u = account{Iterations: hashIterations, Salt: make([]byte, 16), Hash: make([]byte, hashBytes)}
	}
	if len(password) > maxPassword {
		return errWrongPassword
	}
	hash, err := f.hash(ctx, u, password)
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(hash, u.Hash) != 1 || !known {
		return errWrongPassword
	}
	return nil
}

func (f *userFile) find(name string) (account, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, known := f.users[name]
	return u, known
}

func (f *userFile) hash(ctx context.Context, u account, password string) ([]byte, error) {
	select {
	case f.hashing <- struct{}{}:
		defer func() { <-f.hashing }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return pbkdf2.Key(sha512.New, password, u.Salt, u.Iterations, hashBytes)
}

// checkName takes what the gateway takes as a user id.
func checkName(name string) error {
	switch {
	case name == "":
		return badInput("The user name is missing.")
	case len(name) > maxUserName:
		return badInput(fmt.Sprintf("The user name is longer than %d bytes.", maxUserName))
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }):
		return badInput("The user name has characters that cannot be printed.")
	case strings.TrimSpace(name) != name:
		return badInput("The user name begins or ends with a space.")
	}
	return nil
}

func checkPassword(password string) error {
	var upper, lower, digit, special bool
	for _, r := range password {
		switch {
		case unicode.IsUpper(r):
			upper = true
		case unicode.IsLower(r):
			lower = true
		case unicode.IsDigit(r):
			digit = true
		case !unicode.IsLetter(r):
			special = true
		}
	}
	if len(password) > maxPassword {
		return badInput(fmt.Sprintf("The password is longer than %d bytes.", maxPassword))
	}
	if utf8.RuneCountInString(password) < 8 || !upper || !lower || !digit || !special {
		return badInput("The password needs at least 8 characters, with an upper-case letter, a lower-case letter, a number and a special character among them.")
	}
	return nil
}
