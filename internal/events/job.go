package events

// How delivery jobs stand in River's table. They are inserted with plain SQL, in
// the transactions that turn lanes; package jobs works them.
const (
	JobKind  = "deliver"
	JobQueue = "deliver"

	// A delivery job must never be discarded while its lane is owed (I2), so it
	// may fail as often as a smallint can count.
	jobMaxAttempts = "30000"
)
