package tokens

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

var testNow = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// goodClaims are what open accepts at testNow; tests spoil one of them.
func goodClaims() map[string]any {
	return map[string]any{
		"iss": "restante", "aud": "restante", "sub": "ann", "preferred_username": "Ann",
		"iat": testNow.Unix(), "exp": testNow.Add(30 * time.Second).Unix(), "jti": "AAAAAAAAAAAAAAAAAAAAAA",
	}
}

func without(name string) map[string]any {
	c := goodClaims()
	delete(c, name)
	return c
}

func with(name string, value any) map[string]any {
	c := goodClaims()
	c[name] = value
	return c
}

// forge encrypts any plaintext with any algorithm.
func forge(t testing.TB, alg jose.KeyAlgorithm, enc jose.ContentEncryption, key any, kid string, plain any, opts *jose.EncrypterOptions) string {
	t.Helper()
	text, ok := plain.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(plain); err != nil {
			t.Fatal(err)
		}
	}
	e, err := jose.NewEncrypter(enc, jose.Recipient{Algorithm: alg, Key: key, KeyID: kid, PBES2Count: 1000}, opts)
	if err != nil {
		t.Fatal(err)
	}
	object, err := e.Encrypt(text)
	if err != nil {
		t.Fatal(err)
	}
	token, err := object.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// ours is forge as the service itself does it.
func ours(t testing.TB, k Key, plain any) string {
	t.Helper()
	return forge(t, jose.DIRECT, jose.A256GCM, k.secret[:], k.ID, plain, nil)
}

func TestOpen(t *testing.T) {
	t.Parallel()
	k, other := newKey(t), newKey(t)
	r, err := NewKeyring(k, other)
	if err != nil {
		t.Fatal(err)
	}
	for name, plain := range map[string]map[string]any{
		"as issued":           goodClaims(),
		"audience in a list":  with("aud", []string{"x", "restante"}),
		"expired in leeway":   with("exp", testNow.Add(-leeway).Unix()),
		"without a name":      without("preferred_username"),
		"issuer's clock fast": with("iat", testNow.Add(time.Hour).Unix()),
	} {
		c, err := r.open(ours(t, k, plain), "restante", testNow)
		if err != nil || c.Subject != "ann" {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	if _, err := r.open(ours(t, other, goodClaims()), "restante", testNow); err != nil {
		t.Errorf("second key of the keyring: %v", err)
	}
}

func TestOpenRejects(t *testing.T) {
	t.Parallel()
	k, foreign := newKey(t), newKey(t)
	r, err := NewKeyring(k)
	if err != nil {
		t.Fatal(err)
	}
	good := ours(t, k, goodClaims())
	part := func(i int, b64 string) string {
		parts := strings.Split(good, ".")
		parts[i] = b64
		return strings.Join(parts, ".")
	}
	header := func(h map[string]any) string {
		all := map[string]any{"alg": "dir", "enc": "A256GCM", "kid": k.ID}
		maps.Copy(all, h)
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return part(0, base64.RawURLEncoding.EncodeToString(text))
	}
	// Authentic in all but its header: the options are put in before encrypting.
	headed := func(name string, value any) string {
		opts := (&jose.EncrypterOptions{}).WithHeader(jose.HeaderKey(name), value)
		return forge(t, jose.DIRECT, jose.A256GCM, k.secret[:], k.ID, goodClaims(), opts)
	}
	bomb := forge(t, jose.DIRECT, jose.A256GCM, k.secret[:], k.ID,
		[]byte(`{"sub":"`+strings.Repeat("a", 200<<10)+`"}`), &jose.EncrypterOptions{Compression: jose.DEFLATE})
	if len(bomb) > maxTokenBytes {
		t.Fatalf("the bomb has %d bytes and would be refused for its length", len(bomb))
	}
	signed := func(alg jose.SignatureAlgorithm) string {
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: k.secret[:]}, nil)
		if err != nil {
			t.Fatal(err)
		}
		token, err := jwt.Signed(s).Claims(goodClaims()).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		return token
	}

	for name, c := range map[string]struct {
		token string
		want  Reason
	}{
		"empty":               {"", ReasonMalformed},
		"no token":            {"Bearer of bad news", ReasonMalformed},
		"only dots":           {"....", ReasonMalformed},
		"NUL":                 {good + "\x00", ReasonMalformed},
		"line break":          {good[:20] + "\n" + good[20:], ReasonMalformed},
		"padding":             {good + "==", ReasonMalformed},
		"space after":         {good + " ", ReasonMalformed},
		"sixth part":          {good + ".e30", ReasonMalformed},
		"JSON form":           {`{"protected":"e30","ciphertext":"","tag":""}`, ReasonMalformed},
		"header no JSON":      {part(0, "AAAA"), ReasonMalformed},
		"oversized":           {good + strings.Repeat("A", maxTokenBytes), ReasonOversized},
		"signed, not sealed":  {signed(jose.HS256), ReasonMalformed},
		"alg none":            {header(map[string]any{"alg": "none"}), ReasonAlgorithm},
		"unsecured JWS":       {base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + ".e30.", ReasonMalformed},
		"RSA-OAEP":            {header(map[string]any{"alg": "RSA-OAEP"}), ReasonAlgorithm},
		"PBES2":               {forge(t, jose.PBES2_HS256_A128KW, jose.A256GCM, "password", k.ID, goodClaims(), nil), ReasonAlgorithm},
		"A256KW, our key":     {forge(t, jose.A256KW, jose.A256GCM, k.secret[:], k.ID, goodClaims(), nil), ReasonAlgorithm},
		"A128GCM":             {forge(t, jose.DIRECT, jose.A128GCM, k.secret[:16], k.ID, goodClaims(), nil), ReasonAlgorithm},
		"CBC, our key":        {forge(t, jose.DIRECT, jose.A128CBC_HS256, k.secret[:], k.ID, goodClaims(), nil), ReasonAlgorithm},
		"no alg":              {header(map[string]any{"alg": nil}), ReasonAlgorithm},
		"zip bomb":            {bomb, ReasonCompressed},
		"zip of another kind": {headed("zip", "none"), ReasonCompressed},
		"unknown header":      {headed("x", "y"), ReasonMalformed},
		"critical header":     {headed("crit", []string{"exp"}), ReasonMalformed},
		"key in header":       {headed("jwk", map[string]any{"kty": "oct"}), ReasonMalformed},
		"no kid":              {forge(t, jose.DIRECT, jose.A256GCM, k.secret[:], "", goodClaims(), nil), ReasonKey},
		"kid of no key":       {ours(t, foreign, goodClaims()), ReasonKey},
		"kid is a number":     {header(map[string]any{"kid": 7}), ReasonMalformed},
		"foreign, our kid":    {forge(t, jose.DIRECT, jose.A256GCM, foreign.secret[:], k.ID, goodClaims(), nil), ReasonDecrypt},
		"header respelled":    {part(0, base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"dir","enc":"A256GCM", "kid":"`+k.ID+`"}`))), ReasonDecrypt},
		"encrypted key":       {part(1, "AAAA"), ReasonMalformed},
		"short nonce":         {part(2, "AAAA"), ReasonMalformed},
		"other nonce":         {part(2, "AAAAAAAAAAAAAAAA"), ReasonDecrypt},
		"no ciphertext":       {part(3, ""), ReasonDecrypt},
		"short tag":           {part(4, "AAAA"), ReasonMalformed},
		"other tag":           {part(4, strings.Repeat("A", 22)), ReasonDecrypt},
		"plaintext no JSON":   {ours(t, k, []byte("hello")), ReasonClaims},
		"sub is a number":     {ours(t, k, with("sub", 7)), ReasonClaims},
		"exp is a word":       {ours(t, k, with("exp", "soon")), ReasonClaims},
		"jti with NUL":        {ours(t, k, with("jti", "a\x00")), ReasonClaims},
		"jti too long":        {ours(t, k, with("jti", strings.Repeat("a", 65))), ReasonClaims},
		"wrong issuer":        {ours(t, k, with("iss", "other")), ReasonIssuer},
		"no issuer":           {ours(t, k, without("iss")), ReasonIssuer},
		"wrong audience":      {ours(t, k, with("aud", []string{"other"})), ReasonAudience},
		"no audience":         {ours(t, k, without("aud")), ReasonAudience},
		"no exp":              {ours(t, k, without("exp")), ReasonNoExpiry},
		"exp null":            {ours(t, k, with("exp", nil)), ReasonNoExpiry},
		"expired":             {ours(t, k, with("exp", testNow.Add(-leeway-time.Second).Unix())), ReasonExpired},
		"no sub":              {ours(t, k, without("sub")), ReasonNoSubject},
		"no jti":              {ours(t, k, without("jti")), ReasonNoID},
	} {
		_, err := r.open(c.token, "restante", testNow)
		if got := ReasonOf(err); got != c.want {
			t.Errorf("%s: reason %q (%v), want %q", name, got, err, c.want)
		}
	}
}

// Every single character of a token is significant: no altered token, and no
// other spelling of the same one, opens.
func TestOpenRejectsEveryAlteration(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	r, err := NewKeyring(k)
	if err != nil {
		t.Fatal(err)
	}
	token := ours(t, k, goodClaims())
	for i := range len(token) {
		for _, c := range []byte{'A', 'B', token[i] ^ 1, token[i] ^ 0x20, '.', '=', '\n'} {
			if c == token[i] {
				continue
			}
			altered := token[:i] + string(rune(c)) + token[i+1:]
			if _, err := r.open(altered, "restante", testNow); ReasonOf(err) == "" {
				t.Errorf("%q instead of %q at %d of %d: %v", c, token[i], i, len(token), err)
			}
		}
		if _, err := r.open(token[:i]+token[i+1:], "restante", testNow); ReasonOf(err) == "" {
			t.Errorf("without byte %d of %d: %v", i, len(token), err)
		}
		if _, err := r.open(token[:i], "restante", testNow); ReasonOf(err) == "" {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	// The dot between ciphertext and tag, moved by whole groups of four.
	at := strings.LastIndexByte(token, '.')
	moved := token[:at-4] + "." + token[at-4:at] + token[at+1:]
	if _, err := r.open(moved, "restante", testNow); ReasonOf(err) == "" {
		t.Errorf("with its last dot moved it opens: %v", err)
	}
}

func TestLongestUserFits(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	set, err := newKeyset([]Key{k})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{strings.Repeat(`"`, 256), strings.Repeat("\u2028", 85), strings.Repeat("<", 256)} {
		c := claims{Issuer: "restante", Audience: jwt.Audience{"restante"}, Subject: id,
			Username: clip(strings.Repeat(`\`, 300), maxUsernameBytes), Expiry: jwt.NewNumericDate(testNow), ID: "AAAAAAAAAAAAAAAAAAAAAA"}
		if _, err := set.seal(c); err != nil {
			t.Errorf("%q…: %v", id[:3], err)
		}
	}
}
