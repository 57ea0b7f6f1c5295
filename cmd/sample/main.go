// Sample is the sample application: it stands for a system of yours that works
// for a while and then has something to tell a user. See package sample for
// what it promises; this command is its flags and its life as a process.
//
// Exit code 0 after a stop that was asked for, also when tasks were lost by it
// (each is an error line in the log); 1 when it could not start or go on; 2 for
// a mistake in its configuration.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"restante/internal/buildinfo"
	"restante/internal/sample"
)

func main() {
	// The first signal ends the process in order; with the handler gone, a
	// second one kills it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	cfg, err := readConfig(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "sample: %v\nSee sample -h.\n", err)
		return 2
	case cfg.version:
		fmt.Fprintln(stdout, "restante-sample", buildinfo.Read())
		return 0
	}
	log := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: cfg.logLevel}))
	app, err := newApp(cfg, log)
	if err != nil {
		fmt.Fprintf(stderr, "sample: %v\nSee sample -h.\n", err)
		return 2
	}
	if err := serve(ctx, cfg, app, log); err != nil {
		log.Error("sample application failed", "err", err)
		return 1
	}
	return 0
}

// serve runs the application behind an HTTP server until ctx is done.
func serve(ctx context.Context, cfg config, app *sample.App, log *slog.Logger) error {
	listener, err := net.Listen("tcp", cfg.listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := &http.Server{
		Handler:           app.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return app.Run(running) })
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	group.Go(func() error {
		<-running.Done()
		// Requests are answered at once, so this is short; tasks have their own
		// grace period, in Run, beside it.
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(server.Shutdown(closing), server.Close())
	})
	log.Info("sample application started", "listen", listener.Addr().String(), "gateway", cfg.gatewayURL, "issuer", cfg.issuer)
	err = group.Wait()
	log.Info("sample application stopped")
	return err
}
