// Command migrate (installed as restante-migrate) brings a database's schema to
// what this release needs, and tells how far a database is.
//
// It is the only thing that changes a schema: the gateway refuses to start on
// one that is behind, so a deploy runs this first. It is safe to run from
// several places at once, and again; each step is a transaction, and one that
// fails leaves the schema as the step before it did.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}
