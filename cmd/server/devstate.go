package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"restante/internal/publishers"
	"restante/internal/tokens"
)

// keep writes a small secret file of the development state.
func (d *dev) keep(name, text string) error {
	path := filepath.Join(d.dir, name)
	if err := os.WriteFile(path+".new", []byte(text+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}

// tokenKeyring returns the keyring file, made at the first start.
func (d *dev) tokenKeyring() (string, error) {
	if d.cfg.tokenKeyring != "" {
		return d.cfg.tokenKeyring, nil
	}
	path := filepath.Join(d.dir, "token-keys.json")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	key, err := tokens.NewKey()
	if err != nil {
		return "", err
	}
	return path, tokens.WriteFile(path, []tokens.Key{key})
}

// apiKey returns the sample application's API key, which is made at the first
// start and again when the database does not know it.
func (d *dev) apiKey(ctx context.Context) (string, error) {
	keys := publishers.New(d.replica.relaxed, nil)
	if text, err := os.ReadFile(filepath.Join(d.dir, "api-key")); err == nil {
		key := strings.TrimSpace(string(text))
		_, err := keys.Authenticate(ctx, key)
		if err == nil {
			return key, nil
		}
		if !errors.Is(err, publishers.ErrRejected) {
			return "", err
		}
	}
	_, key, err := keys.Create(ctx, "development", []string{publishers.ScopePublish, publishers.ScopeRead}, "")
	if err != nil {
		return "", err
	}
	return key, d.keep("api-key", key)
}

// clientEnvironment is what msg has to be told when things are not where it looks
// for them by itself.
func (d *dev) clientEnvironment() string {
	var c config
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	c.define(fs)
	var settings []string
	for _, each := range []struct{ flag, env, address string }{
		{"listen", "RESTANTE_URL", d.cfg.listen},
		{"dev-issuer-listen", "RESTANTE_ISSUER", d.cfg.dev.issuerListen},
		{"dev-sample-listen", "RESTANTE_SAMPLE_URL", d.cfg.dev.sampleListen},
	} {
		if each.address != fs.Lookup(each.flag).DefValue {
			settings = append(settings, each.env+"=http://"+each.address)
		}
	}
	if d.cfg.dev.dir != "" {
		settings = append(settings, `DATABASE_URL="$(cat `+shellWord(filepath.Join(d.dir, "database-url"))+`)"`, "RESTANTE_API_KEY=$(cat "+shellWord(filepath.Join(d.dir, "api-key"))+")")
	}
	return strings.Join(settings, " ")
}

// shellWord is a path as a shell reads it as one word.
func shellWord(path string) string {
	if !strings.ContainsFunc(path, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("/._-+:@", r)
	}) {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// withoutPassword is a database URL for the terminal, and for whoever looks over
// its user's shoulder.
func withoutPassword(databaseURL string) string {
	u, err := url.Parse(databaseURL)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "the one that was given"
	}
	if query := u.Query(); query.Has("password") {
		query.Set("password", "xxxxx")
		u.RawQuery = query.Encode()
	}
	return u.Redacted()
}

// announce says where everything is and what to do next, here and to a second
// start.
func (d *dev) announce() error {
	var exports, same string
	if where := d.clientEnvironment(); where != "" {
		exports, same = "\n  export "+where, " export and"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `
Restante is running.

  page         %s      sign in, connect, start a long task
  gateway      %s
  issuer       %s      development only
  admin        %s      /metrics /readyz /debug/pprof
  database     %s
  API key      %s

In another terminal:
%s
  go run ./cmd/msg create-user -p 'Passw0rd!'
  eval `+"`go run ./cmd/msg auth -p 'Passw0rd!'`"+`
  go run ./cmd/msg connect-websocket

and in a third one, after the same%s eval:

  go run ./cmd/msg send-message "Asynchronous is cool" -w 5

Ctrl-C stops everything; messages, users and keys are kept in %s
`, d.url(d.listeners.sample), d.url(d.listeners.public), d.url(d.listeners.issuer), d.url(d.listeners.admin),
		withoutPassword(d.cfg.databaseURL), filepath.Join(d.dir, "api-key"), exports, same, d.dir)
	if _, err := fmt.Fprintln(d.out, b.String()); err != nil {
		return err
	}
	return d.keep("running", b.String())
}
