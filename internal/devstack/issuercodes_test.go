package devstack

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestCodesExpireAndAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCodes()
		code, _ := c.issue(pendingCode{user: "ann"})
		time.Sleep(codeLifetime)
		if p, ok := c.redeem(code); !ok || p.user != "ann" {
			t.Error("a code at its last moment is refused")
		}
		code, _ = c.issue(pendingCode{})
		time.Sleep(codeLifetime + 1)
		if _, ok := c.redeem(code); ok {
			t.Error("a code that is too old is taken")
		}
		for range maxCodes {
			if _, ok := c.issue(pendingCode{}); !ok {
				t.Fatal("refused below the limit")
			}
		}
		if _, ok := c.issue(pendingCode{}); ok {
			t.Error("taken beyond the limit")
		}
		time.Sleep(codeLifetime + 1)
		if _, ok := c.issue(pendingCode{}); !ok {
			t.Error("expired codes still count")
		}
		if len(c.pending) != 1 {
			t.Errorf("%d codes are kept, want 1", len(c.pending))
		}
	})
}
