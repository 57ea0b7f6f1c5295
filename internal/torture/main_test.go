package torture

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"restante/internal/testdb"
)

var (
	seedFlag  = flag.Uint64("torture.seed", 0, "seed of the torture; 0 draws one")
	stepsFlag = flag.Int("torture.steps", 4000, "steps of the torture")
)

func TestMain(m *testing.M) { testdb.Main(m) }

// drawSeed returns the seed of this run and says what it is.
func drawSeed(t testing.TB) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to repeat: -torture.seed=%d", seed)
	return seed
}

// pause waits, and reports whether it was not cut short.
func pause(d time.Duration, until ...<-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	var a, b <-chan struct{}
	switch len(until) {
	case 2:
		a, b = until[0], until[1]
	case 1:
		a = until[0]
	}
	select {
	case <-timer.C:
		return true
	case <-a:
	case <-b:
	}
	return false
}

// between draws a duration.
func between(r *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(r.Int64N(int64(high-low)))
}

func oneIn(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }
