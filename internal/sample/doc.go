// Package sample is an application as a publisher of the gateway would write
// it: it accepts a long-running task over HTTP, answers at once, works for a
// while, and posts the result as a message for the user who asked.
//
// # Promise
//
// A task answered 202 either has its result accepted by the gateway, or one
// log line says that it was lost, with its task id and user. Nothing is
// written to disk here: durability begins at the gateway's 202, and that is
// the point of the sample. A task that must survive the application's own
// death needs a job queue in the application.
//
// # States of a task
//
//	waiting ──due──▶ posting ──202──▶ done
//	   │                │
//	   │                ├─ 4xx, or no answer for Config.GiveUpAfter ─▶ lost
//	   └──── stop ──────┴─ not finished within Config.Grace ─────────▶ lost
//
// # Authority
//
// The user's ID token is the only authority on who may be addressed: a task's
// result goes to the token's own user and nobody else. The gateway's answer is
// the only authority on whether a result was accepted. The idempotency key is
// the task id, so an attempt whose answer was lost can be repeated without the
// user seeing the result twice.
//
// # Failure
//
// The gateway being away, overloaded or restarting delays a result: attempts
// are repeated with jittered exponential backoff, never earlier than the
// gateway's Retry-After. Too many tasks at once are refused with 503 and
// Retry-After. An identity provider that cannot be reached is a 503 too, never
// a reason to let somebody in. On stop no new task is accepted; tasks that are
// due within the grace period finish, the others are reported as lost at once.
//
// The package also serves a demonstration page (page/), which shows the whole
// way from signing in to receiving the result in a browser.
package sample
