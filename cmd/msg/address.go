package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// The addresses of a gateway in development.
const (
	defaultGateway = "http://127.0.0.1:8080"
	defaultIssuer  = "http://127.0.0.1:8081"
	defaultSample  = "http://127.0.0.1:8082"
	defaultClient  = "restante"
	defaultUser    = "testUser"
)

func (e *env) or(name, value string) string {
	if v := e.getenv(name); v != "" {
		return v
	}
	return value
}

// address reads a base URL from the environment.
func (e *env) address(name, value string) (string, error) {
	text := strings.TrimRight(e.or(name, value), "/")
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return "", usagef("%s must be an http or https URL, not %q", name, text)
	}
	return text, nil
}

// stateDir is where a development gateway keeps its files: the rule is that of
// server -dev, so that both find the same place without being told.
func stateDir(getenv func(string) string) string {
	if os.Geteuid() == 0 {
		return "/var/lib/restante-dev"
	}
	if base := getenv("XDG_STATE_HOME"); filepath.IsAbs(base) {
		return filepath.Join(base, "restante")
	}
	if home := getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "state", "restante")
	}
	return ""
}

// fromState reads a one-line file that a development gateway has written; ""
// when there is none.
func (e *env) fromState(name string) (string, error) {
	if e.stateDir == "" {
		return "", nil
	}
	text, err := os.ReadFile(filepath.Join(e.stateDir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return strings.TrimSpace(string(text)), err
}

// secret is the value of a variable, or what is in the file that NAME_FILE names.
func (e *env) secret(name string) (string, error) {
	if value := e.getenv(name); value != "" {
		return value, nil
	}
	file := e.getenv(name + "_FILE")
	if file == "" {
		return "", nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return strings.TrimSpace(string(text)), nil
}

// apiKey finds the key that back ends use.
func (e *env) apiKey() (string, error) {
	if key, err := e.secret("RESTANTE_API_KEY"); key != "" || err != nil {
		return key, err
	}
	key, err := e.fromState("api-key")
	if err != nil {
		return "", hint(err, "Set RESTANTE_API_KEY instead.")
	}
	if key == "" {
		return "", hint(errors.New("an API key is needed and RESTANTE_API_KEY is not set"),
			"Make a key with: msg keys create -name me -scopes publish,read")
	}
	return key, nil
}

// databaseURL finds the database for commands that work on it directly.
func (e *env) databaseURL() (string, error) {
	if u, err := e.secret("DATABASE_URL"); u != "" || err != nil {
		return u, err
	}
	u, err := e.fromState("database-url")
	if err != nil {
		return "", hint(err, "Set DATABASE_URL instead.")
	}
	if u == "" {
		return "", hint(errors.New("the gateway's database is needed and DATABASE_URL is not set"),
			"Set it to the URL that the gateway uses, or start a development gateway with: make run")
	}
	return u, nil
}
