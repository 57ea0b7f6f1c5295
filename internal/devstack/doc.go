// Package devstack is what one command needs on a machine where nothing runs
// yet: a private PostgreSQL and a small OpenID Connect issuer. It is for
// development and tests only; nothing but cmd/server -dev and tests imports it.
//
// # Postgres
//
// Promise: after StartPostgres returns, a PostgreSQL of our own answers on a
// unix socket that only this user and root can reach, and what was committed
// stays through Stop, Kill and a new start. Nothing outside the given directory
// is touched, and no TCP port is opened.
//
// A Postgres is in one of three states. Running: a child of this process; Stop
// and Kill end it, and on Linux the kernel ends it when this process dies.
// Attached: another process of ours runs the same directory; it is used but
// never stopped from here. Stopped: Start brings it back, replaying the log if
// it was killed.
//
// Authority: the socket. If it answers, the directory is in use, whatever a pid
// file says; if it does not, and no process works in the data directory, a pid
// file is left over from a crash and is removed. A file lock makes two
// processes that start the same directory at once take turns.
//
// Failure: whatever goes wrong names the remedy: which package to install,
// which directory cannot be entered, or the last lines of PostgreSQL's own log.
//
// # Issuer
//
// The development issuer speaks enough OpenID Connect for real clients and real
// verifiers (discovery, JWKS, authorization code with PKCE, password grant).
// Its users live in a file. It takes redirects to loopback addresses only, and
// must not be reachable from anywhere else.
package devstack
