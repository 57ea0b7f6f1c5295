package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/bcrypt"

	"restante/internal/tokens"
)

func secretsCommand() command {
	return command{
		name:  "secrets",
		short: "make what an installation must keep secret, where it is missing",
		long: `
Fills a directory with the secrets of an installation, one directory below it for
each program that needs some. What is there already is kept, so this may run before
every start; nothing has a default that somebody else could know.

  msg secrets -dir /secrets
  msg secrets -dir ./secrets -database 'postgres://restante@db.internal/restante'

  gateway/database-url      -database, with the password
  gateway/token-keys.json   the keyring of the connection tokens
  postgres/password         the database's password
  dex/password-hash         bcrypt, of the demonstration user's password
  demo/password             that password
  grafana/password          Grafana's administrator
  sample/                   empty: msg keys create -file puts an API key there

Files can be read by their owner only. To bring a secret of your own, write its
file first.`,
		prepare: func(e *env, f *flags) action {
			dir := f.String("dir", "", "the `directory`")
			database := f.String("database", "postgres://restante@postgres:5432/restante", "`URL` of the database, without a password")
			return func(_ context.Context, args []string) error {
				if len(args) > 0 {
					return usagef("unexpected argument %q", args[0])
				}
				if *dir == "" {
					return usagef("name the directory with -dir")
				}
				u, err := url.Parse(*database)
				if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.User.Username() == "" {
					return usagef("-database must be like postgres://restante@postgres:5432/restante")
				}
				if _, has := u.User.Password(); has {
					return usagef("-database must not have a password: it is made here, or read from postgres/password")
				}
				return e.secrets(*dir, u)
			}
		},
	}
}

func (e *env) secrets(dir string, database *url.URL) error {
	s := &secretFiles{dir: dir, made: e.say}
	password := s.keep("postgres/password", randomSecret)
	s.keep("gateway/database-url", func() (string, error) {
		u := *database
		u.User = url.UserPassword(u.User.Username(), password)
		return u.String(), nil
	})
	s.keep("gateway/token-keys.json", nil)
	demo := s.keep("demo/password", demoPassword)
	s.keep("dex/password-hash", func() (string, error) {
		hash, err := bcrypt.GenerateFromPassword([]byte(demo), bcrypt.DefaultCost)
		return string(hash), err
	})
	s.keep("grafana/password", randomSecret)
	s.directory("sample")
	return s.err
}

// randomSecret has 130 bits and only letters and digits, so that it needs no
// quoting in URLs, shells and configuration files.
func randomSecret() (string, error) { return rand.Text(), nil }

// demoPassword is one that people type: 80 bits, and one of each kind of character
// that issuers may ask for.
func demoPassword() (string, error) { return "Demo-1-" + strings.ToLower(rand.Text()[:16]), nil }

// secretFiles makes files until one fails.
type secretFiles struct {
	dir  string
	made func(format string, args ...any)
	err  error
}

// keep returns what is in the file, which it makes if it is not there. Without a
// function to make it, it is a keyring.
func (s *secretFiles) keep(name string, text func() (string, error)) string {
	path := filepath.Join(s.dir, filepath.FromSlash(name))
	s.directory(filepath.Dir(filepath.FromSlash(name)))
	if s.err != nil {
		return ""
	}
	old, err := os.ReadFile(path)
	if err == nil {
		return string(trimLine(old))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		s.err = err
		return ""
	}
	made := ""
	if text == nil {
		s.err = newKeyringFile(path)
	} else if made, s.err = text(); s.err == nil {
		s.err = writeSecret(path, made)
	}
	if s.err == nil {
		s.made("Made %s.", path)
	}
	return made
}

func (s *secretFiles) directory(name string) {
	// The directory itself may be a volume that is there already.
	s.err = cmp.Or(s.err, os.MkdirAll(filepath.Join(s.dir, name), 0o700))
}

func newKeyringFile(path string) error {
	key, err := tokens.NewKey()
	if err != nil {
		return err
	}
	return tokens.WriteFile(path, []tokens.Key{key})
}

// writeSecret writes a file that is whole or not there.
func writeSecret(path, text string) error {
	// Of a run that was killed; without write permission it could not be opened.
	if err := os.Remove(path + ".new"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write a secret: %w", err)
	}
	if err := os.WriteFile(path+".new", []byte(text), 0o400); err != nil {
		return fmt.Errorf("write a secret: %w", err)
	}
	return os.Rename(path+".new", path)
}

// trimLine drops the end of the line that an editor leaves.
func trimLine(text []byte) []byte {
	for len(text) > 0 && (text[len(text)-1] == '\n' || text[len(text)-1] == '\r') {
		text = text[:len(text)-1]
	}
	return text
}
