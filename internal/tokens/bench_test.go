package tokens

import (
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"restante/internal/testdb"
)

func BenchmarkSeal(b *testing.B) {
	set, err := newKeyset([]Key{newKey(b)})
	if err != nil {
		b.Fatal(err)
	}
	c := claims{Issuer: "restante", Audience: jwt.Audience{"restante"}, Subject: "3f0c1c1e-6f7e-4d8e-9a51-0d3b7f5a2c11",
		Username: "testUser", Expiry: jwt.NewNumericDate(testNow), ID: "AAAAAAAAAAAAAAAAAAAAAA"}
	for b.Loop() {
		if _, err := set.seal(c); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKey(b)
	r := keyring(b, k)
	token := ours(b, k, goodClaims())
	for b.Loop() {
		if _, err := r.open(token, "restante", testNow); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(token)), "bytes/token")
}

// One client's way in: both statements, one after the other.
func BenchmarkIssueRedeem(b *testing.B) {
	tokens := New(testdb.New(b).Pool, keyring(b), Config{TTL: time.Minute}, nil)
	for b.Loop() {
		if _, err := tokens.Redeem(b.Context(), issue(b, tokens, "ann")); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBox seals and opens what goes along in a notification.
func BenchmarkBox(b *testing.B) {
	key, err := NewKey()
	if err != nil {
		b.Fatal(err)
	}
	ring, err := NewKeyring(key)
	if err != nil {
		b.Fatal(err)
	}
	from, to := NewBox(ring, "from", "e"), NewBox(ring, "to", "e")
	plain := make([]byte, 4500)
	b.ReportAllocs()
	for b.Loop() {
		sealed, err := from.Seal(plain)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := to.Open("from", sealed); err != nil {
			b.Fatal(err)
		}
	}
}
