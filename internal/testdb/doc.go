// Package testdb gives tests real Postgres databases. It is imported by tests
// only.
//
// Promise: New returns a migrated, empty database that nobody else uses, in
// some 50 ms, and Cluster a whole PostgreSQL of the test's own. Missing
// PostgreSQL is a failure that says what to install, never a skip.
//
// A test process has at most one shared cluster, started by the first New and
// stopped by Main after the last test: without durability, in a temporary
// directory. Its template database is migrated once and cloned for each test.
// With TEST_DATABASE_URL the databases are made on that server instead; its
// user needs the right to create databases.
//
// A test process that is killed takes its PostgreSQL with it (on Linux); the
// directory it leaves is removed by the next one.
package testdb
