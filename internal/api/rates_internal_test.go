package api

import (
	"fmt"
	"testing"
	"time"
)

func TestRatesRefill(t *testing.T) {
	t.Parallel()
	clock := time.Now()
	l := newRates(0, 0)
	l.now = func() time.Time { return clock }
	from := publisher{credential: "a", limits: limits{messages: 10}}
	post := func(n int) bool { return l.take(&from, n, 1<<30) == nil }
	accepted := 0
	for post(1) {
		accepted++
	}
	if accepted != 10 {
		t.Errorf("%d at once, want a second's worth, 10", accepted)
	}
	clock = clock.Add(100 * time.Millisecond)
	if !post(1) || post(1) {
		t.Error("a tenth of a second is not one message")
	}
	clock = clock.Add(time.Hour)
	if !post(25) || post(1) { // 15 more than there was
		t.Error("a large request is not taken whole")
	}
	if p := l.take(&from, 1, 0); p == nil || p.retryIn != 2 {
		t.Errorf("%+v, want to come back in 2 s", p)
	}
	clock = clock.Add(1590 * time.Millisecond)
	if post(1) {
		t.Error("what was taken too much is forgotten")
	}
	clock = clock.Add(20 * time.Millisecond)
	if !post(1) {
		t.Error("it is not made up for")
	}
	// Another rate counts at once.
	from.limits.messages = 1000
	clock = clock.Add(10 * time.Millisecond)
	if !post(9) {
		t.Error("the higher rate does not count")
	}
	// Looking takes nothing.
	clock = clock.Add(time.Hour)
	for range 5000 {
		if !post(0) {
			t.Fatal("looking took something")
		}
	}
}

// The average over any time is the rate, whatever the sizes.
func TestRatesOverTime(t *testing.T) {
	t.Parallel()
	clock := time.Now()
	l := newRates(0, 0)
	l.now = func() time.Time { return clock }
	from := publisher{credential: "a", limits: limits{messages: 100, bytes: 10_000}}
	messages, bytes := 0, 0
	for i := range 20_000 {
		n, size := 1+i%7*50, 1+i*37%9000
		if l.take(&from, n, size) == nil {
			messages, bytes = messages+n, bytes+size
		}
		clock = clock.Add(10 * time.Millisecond)
	}
	if seconds := 200; messages > 100*(seconds+1)+350 || bytes > 10_000*(seconds+1)+9000 || messages < 95*seconds && bytes < 9500*seconds {
		t.Errorf("%d messages and %d bytes in %d s", messages, bytes, seconds)
	}
}

func TestRatesOfManyPublishers(t *testing.T) {
	t.Parallel()
	clock := time.Now()
	l := newRates(10, 0)
	l.now = func() time.Time { return clock }
	post := func(credential string, n int) {
		l.take(&publisher{credential: credential, limits: limits{messages: 10}}, n, 0)
	}
	post("over", 1000)
	for i := range 3 * maxAllowances {
		post(fmt.Sprint(i), 1)
		clock = clock.Add(time.Millisecond)
		if len(l.allowances) > maxAllowances {
			t.Fatalf("%d allowances are kept", len(l.allowances))
		}
	}
	if l.take(&publisher{credential: "over", limits: limits{messages: 10}}, 1, 0) == nil {
		t.Error("one that is over its rate was forgotten while others are whole")
	}
}
