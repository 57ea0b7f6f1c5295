package hub

import "time"

// Close codes are API: clients branch on them. 1000 to 1013 are those of RFC 6455
// section 7.4.1 and its registry, 44xx are Restante's.
const (
	CodeNormal      = 1000 // the client asked for it
	CodePolicy      = 1008 // the client sent a frame that does not belong here
	CodeTooBig      = 1009 // the client sent too large a frame
	CodeRestart     = 1012 // the replica is being replaced, or the session is old: connect again
	CodeNoAck       = 4408 // the client did not confirm in time
	CodeSlowDown    = 4429 // the client sends too many frames
	codeUnreachable = 1006 // never sent: the connection is gone
)

// Closing is why a session ends.
type Closing struct {
	Code           int
	Reason         string        // for people, at most 123 bytes (RFC 6455, 5.5)
	ReconnectAfter time.Duration // when the client should come back; 0 for at once
	Label          string        // metric label
}

// The ways a session ends by the hub's or its transport's decision.
var (
	ByClient    = Closing{Code: CodeNormal, Label: "client"}
	Unreachable = Closing{Code: codeUnreachable, Reason: "connection lost", Label: "lost"}
	Stalled     = Closing{Code: CodeNoAck, Reason: "the client has stopped reading", Label: "stalled"}
	NoRoom      = Closing{Code: CodeNoAck, Reason: "the client does not read, and its memory is needed", Label: "no_room"}
	// TooManyFrames is for a client that floods: it comes back when it has calmed down.
	TooManyFrames = Closing{Code: CodeSlowDown, Reason: "too many frames that confirm nothing", ReconnectAfter: 10 * time.Second, Label: "flood"}

	noAck    = Closing{Code: CodeNoAck, Reason: "messages were not acknowledged in time", Label: "no_ack"}
	tooOld   = Closing{Code: CodeRestart, Reason: "maximum session age reached, connect again", Label: "max_age"}
	draining = Closing{Code: CodeRestart, Reason: "replica is stopping, connect again", Label: "drain"}

	historyChanged = Closing{Code: CodeRestart, Reason: "the log's history changed, connect again", Label: "history"}
)

// Violation is the end of a session whose client broke the protocol.
func Violation(code int, reason string) Closing {
	return Closing{Code: code, Reason: reason, Label: "violation"}
}
