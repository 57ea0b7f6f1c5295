package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// claims are what msg looks at in an ID token, for its messages only: whether
// the token is good is the gateway's to decide.
type claims struct {
	Subject   string `json:"sub"`
	Username  string `json:"preferred_username"`
	Cognito   string `json:"cognito:username"`
	Name      string `json:"name"`
	Email     string `json:"email"`
	ExpiresAt int64  `json:"exp"`
}

// name is what the gateway shows, too: it looks through the same claims.
func (c claims) name() string {
	for _, n := range []string{c.Username, c.Cognito, c.Name, c.Email, c.Subject} {
		if n != "" {
			return n
		}
	}
	return "somebody"
}

func readClaims(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, errors.New("it is not a JWT")
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims{}, errors.New("it is not a JWT")
	}
	var c claims
	if err := json.Unmarshal(raw, &c); err != nil {
		return claims{}, errors.New("its claims are not JSON")
	}
	return c, nil
}

const authAgain = `Sign in again with: eval "$(msg auth -p PASSWORD)"`

// errNoSignIn is the root of all errors that a new sign-in cures.
var errNoSignIn = errors.New("not signed in")

// idToken finds the user's ID token and refuses one that cannot be good, with
// words instead of a 401.
func (e *env) idToken(option string) (string, claims, error) {
	token := option
	if token == "" {
		token = e.getenv("ID_TOKEN")
	}
	token = strings.TrimSpace(token)
	if token == "" {
		return "", claims{}, signIn("you are not signed in: ID_TOKEN is not set",
			`Sign in with: eval "$(msg auth -p PASSWORD)"`)
	}
	c, err := readClaims(token)
	if err != nil {
		return "", claims{}, signIn("ID_TOKEN is not an ID token: "+err.Error(), authAgain)
	}
	if err := stillGood(c); err != nil {
		return "", claims{}, err
	}
	return token, c, nil
}

func stillGood(c claims) error {
	if c.ExpiresAt == 0 || time.Now().Before(time.Unix(c.ExpiresAt, 0)) {
		return nil
	}
	return signIn("your ID token expired at "+clock(time.Unix(c.ExpiresAt, 0)), authAgain)
}

// refused is said when a server did not take the ID token.
func refused(err error) error {
	if isStatus(err, 401) {
		return signIn(err.Error(), authAgain)
	}
	return err
}

type signInError struct{ msg string }

func (e *signInError) Error() string        { return e.msg }
func (e *signInError) Is(target error) bool { return target == errNoSignIn }

func signIn(msg, next string) error { return hint(&signInError{msg}, next) }
