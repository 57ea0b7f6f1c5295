package main

import (
	"context"
	"fmt"
	"net/http"
)

func createUserCommand() command {
	return command{
		name:  "create-user",
		short: "create a user at the development issuer",
		long: `
Creates a user at the development issuer, so that somebody can sign in.

  msg create-user -p 'Correct-Horse-1'
  msg create-user -u ada -p 'Correct-Horse-1'
  echo "$PASSWORD" | msg create-user -u ada -p -

Any other issuer has its own way to create users; use that, then msg auth or the
sign-in of your application.`,
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
				return e.createUser(ctx, user, password)
			}
		},
	}
}

func (e *env) createUser(ctx context.Context, user, password string) error {
	issuer, err := e.issuer()
	if err != nil {
		return err
	}
	err = issuer.call(ctx, request{
		method: http.MethodPost, path: "/users",
		body: map[string]string{"username": user, "password": password},
	}, nil)
	switch {
	case isStatus(err, http.StatusConflict):
		return hint(err, fmt.Sprintf("To sign in as that user: eval \"$(msg auth -u %s -p PASSWORD)\"", shellQuote(user)))
	case isStatus(err, http.StatusNotFound), isStatus(err, http.StatusMethodNotAllowed):
		return hint(fmt.Errorf("%s is not the development issuer", issuer.base),
			"Create the user where that issuer keeps its users (Cognito, Keycloak, …: their console or command line).")
	case err != nil:
		return err
	}
	e.say("User %s is ready. Sign in with: eval \"$(msg auth%s -p PASSWORD)\"", user, optionU(user))
	return nil
}

// optionU is what a command line needs to name this user.
func optionU(user string) string {
	if user == defaultUser {
		return ""
	}
	return " -u " + shellQuote(user)
}
