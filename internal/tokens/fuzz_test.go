package tokens

import (
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Whatever is presented, Redeem neither panics nor gets as far as the database,
// which is nil here: nobody can write a token without the key.
func FuzzRedeem(f *testing.F) {
	k, foreign := newKey(f), newKey(f)
	keys, err := NewKeyring(k)
	if err != nil {
		f.Fatal(err)
	}
	good := ours(f, k, goodClaims())
	f.Add("")
	f.Add("....")
	f.Add("e30.e30.")
	f.Add(good[:len(good)-1])
	f.Add(strings.ToUpper(good))
	f.Add(strings.Replace(good, "..", ".AAAA.", 1))
	f.Add(ours(f, foreign, goodClaims()))
	f.Add(forge(f, jose.DIRECT, jose.A256GCM, foreign.secret[:], k.ID, goodClaims(), nil))
	f.Add(forge(f, jose.PBES2_HS256_A128KW, jose.A256GCM, "password", k.ID, goodClaims(), nil))
	f.Add(forge(f, jose.DIRECT, jose.A256GCM, foreign.secret[:], k.ID, goodClaims(), &jose.EncrypterOptions{Compression: jose.DEFLATE}))
	f.Add(`{"protected":"e30","iv":"","ciphertext":"","tag":""}`)
	tokens := New(nil, keys, Config{}, nil)
	tokens.now = func() time.Time { return testNow }
	f.Fuzz(func(t *testing.T, token string) {
		_, err := tokens.Redeem(t.Context(), token)
		if ReasonOf(err) == "" {
			t.Errorf("Redeem(%q) = %v, want a rejection", token, err)
		}
		if len(token) >= 20 && strings.Contains(err.Error(), token) {
			t.Errorf("the error shows the token: %v", err)
		}
	})
}
