// Command devissuer serves the development issuer for the test of
// deploy/compose.yaml, in the place of the identity provider there, whose image
// may not be within reach. It is in no image that is meant for production: anybody
// who reaches it can make users.
//
//	devissuer -url http://id.localhost:8081 -dir /state -allowed-origins http://localhost:8082 \
//		-user testUser -password-file /secrets/demo/password
//
// Users and the signing key are kept in -dir. The demonstration user is made at the
// start. It listens on all addresses, for it
// lives in a container, and stops at the first signal.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"restante/internal/devstack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "devissuer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("devissuer", flag.ContinueOnError)
	flags.SetOutput(stderr)
	issuerURL := flags.String("url", "", "the issuer's `URL`; its port is the one listened on")
	dir := flags.String("dir", "", "`directory` of users and signing key")
	origins := flags.String("allowed-origins", "", "`origins` of pages that sign users in, with commas")
	user := flags.String("user", "", "`name` of a user to make")
	passwordFile := flags.String("password-file", "", "`file` with that user's password")
	if err := flags.Parse(args); err != nil {
		return err
	}
	u, err := url.Parse(*issuerURL)
	if err != nil || u.Port() == "" || *dir == "" {
		return errors.New("-url with a port and -dir are needed")
	}
	issuer, err := devstack.NewIssuer(devstack.IssuerConfig{
		URL: *issuerURL, Dir: *dir, ClientID: "restante",
		AllowedOrigins: strings.Split(*origins, ","),
		Logger:         slog.New(slog.NewJSONHandler(stderr, nil)),
	})
	if err != nil {
		return err
	}
	if *user != "" {
		if err := makeUser(ctx, issuer.Handler(), *user, *passwordFile); err != nil {
			return fmt.Errorf("make %s: %w", *user, err)
		}
	}
	server := &http.Server{
		Addr: ":" + u.Port(), Handler: issuer.Handler(),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
	}
	closed := make(chan error, 1)
	unhook := context.AfterFunc(ctx, func() { closed <- server.Close() })
	err = server.ListenAndServe()
	if unhook() { // it ended by itself
		return err
	}
	return <-closed
}

// makeUser goes the way of msg create-user, without a network.
func makeUser(ctx context.Context, issuer http.Handler, name, passwordFile string) error {
	password, err := os.ReadFile(passwordFile)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"username": name, "password": strings.TrimSpace(string(password))})
	if err != nil {
		return err
	}
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, "/users", bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	issuer.ServeHTTP(answer, request)
	if answer.Code/100 != 2 {
		return fmt.Errorf("%d: %s", answer.Code, answer.Body)
	}
	return nil
}
