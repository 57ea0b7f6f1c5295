package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

func authCommand() command {
	return command{
		name:  "auth",
		short: "sign a user in and print the line that sets ID_TOKEN",
		long: `
Signs a user in at the issuer and prints a line for the shell, which sets ID_TOKEN
for the commands that act for that user:

  eval "$(msg auth -p 'Correct-Horse-1')"
  eval "$(msg auth -u ada -p -)" < password-file

The token is found through the issuer's discovery document, with the password
grant of OAuth 2. Issuers that do not offer that grant (most do not; Cognito has
calls of its own) have other ways to an ID token: take one from your
application, or from its browser page, and export it as ID_TOKEN yourself.`,
		prepare: func(e *env, f *flags) action {
			var user, password string
			f.stringVar(&user, "u", "username", defaultUser, "`name` of the user")
			f.stringVar(&password, "p", "password", "", "`password`; - reads it from standard input")
			return func(ctx context.Context, args []string) error {
				if len(args) > 0 {
					return usagef("unexpected argument %q", args[0])
				}
				password, err := e.password(password)
				if err != nil {
					return err
				}
				return e.auth(ctx, user, password)
			}
		},
	}
}

func (e *env) auth(ctx context.Context, user, password string) error {
	issuer, err := e.issuer()
	if err != nil {
		return err
	}
	p, err := discover(ctx, issuer)
	if err != nil {
		return err
	}
	var answer struct {
		IDToken string `json:"id_token"`
	}
	err = issuer.call(ctx, request{
		method: http.MethodPost, path: p.TokenEndpoint,
		body: url.Values{
			"grant_type": {"password"}, "client_id": {e.or("RESTANTE_CLIENT_ID", defaultClient)},
			"username": {user}, "password": {password}, "scope": {"openid profile email"},
		},
	}, &answer)
	if err != nil {
		return authFailed(err, user)
	}
	c, err := readClaims(answer.IDToken)
	if err != nil {
		return fmt.Errorf("the issuer did not send an ID token: %w", err)
	}
	fmt.Fprintf(e.stdout, "export ID_TOKEN=%s\n", shellQuote(answer.IDToken))
	until := ""
	if c.ExpiresAt != 0 {
		until = ", until " + clock(time.Unix(c.ExpiresAt, 0))
	}
	e.say("Signed in as %s (user id %s)%s.", printable(c.name()), printable(c.Subject), until)
	if isTerminal(e.stdout) {
		e.say("Run it as: eval \"$(msg auth%s -p …)\", so that the shell keeps the token.", optionU(user))
	}
	return nil
}

// authFailed knows the two usual reasons.
func authFailed(err error, user string) error {
	var a *answered
	if !errors.As(err, &a) {
		return err
	}
	switch a.problem.Error {
	case "invalid_grant":
		return hint(errors.New("wrong user name or password"),
			fmt.Sprintf("To create the user: msg create-user%s -p PASSWORD", optionU(user)))
	case "unsupported_grant_type", "unauthorized_client":
		return hint(errors.New("this issuer does not sign users in with a password on the command line"),
			"Sign in with your application and export its ID token as ID_TOKEN.")
	}
	return err
}
