# An index of commands; each is one line you can also type.

run: ## everything on this machine: private PostgreSQL, gateway, issuer, sample application
	go run ./cmd/server -dev

test: ## all tests, on a machine with no database running
	go test -race -shuffle=on -timeout 20m ./...

lint: ## format, vet, staticcheck, tidy, known vulnerabilities
	./.ci/lint

build: ## the programs, into bin/
	go build -trimpath -o bin/ ./cmd/...

bench: ## the table of speed bars, next to a floor in the same run (17 minutes; BENCH_LONG=1: 70)
	go run ./cmd/bench bars -out deploy $(if $(BENCH_LONG),-long)

compose-test: ## the stack of deploy/ on a Docker engine, under load (18 minutes; says SKIPPED where there can be none)
	go run ./deploy/test

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

.PHONY: run test lint build bench compose-test help
