// Package observe holds tests only: what an operator looks at and is woken by,
// against the gateway as it is.
//
// Promise: every expression of the dashboard (deploy/grafana) and of the alerts
// (deploy/prometheus) is one that Prometheus understands, asks for metrics and
// labels that a replica really has, and has an answer in a real run; each alert
// fires when it must and clears afterwards; each has an entry in the runbook.
//
// The dashboard's source is dashboard_test.go. Its JSON is generated, so that
// panels are alike and a change is readable:
//
//	UPDATE_GOLDEN=1 go test ./internal/observe -run TestDashboardIsGenerated
//
// Alerts and their cases are written by hand, in deploy/prometheus. TestAlertCases
// plays the cases with promtool. TestLive runs replicas, Postgres and Prometheus, and
// has a cause for each alert, none excepted: it begins, the alert fires; it ends, the
// alert clears. There, alerts run on a clock that is sixty times as fast: minutes in
// the rules are seconds. Of the two bounds that cannot be reached in seconds, the age
// of a transaction is shortened likewise, and so is the part of the queue of
// notifications that must be full: a quarter of it would be 2 GB.
//
// Failure: without Prometheus, and where it cannot be fetched from the
// distribution's packages, the tests fail and say what to install.
package observe
