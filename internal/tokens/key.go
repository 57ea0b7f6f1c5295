package tokens

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"time"
)

const (
	keyBytes = 32 // A256GCM
	// maxKeys bounds a keyring. Keys overlap for minutes; whoever has this many
	// has forgotten to remove the old ones.
	maxKeys = 32
)

// kidPattern is narrower than JOSE allows: kids stand in logs, file listings and
// in every token's header.
var kidPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// Key is a symmetric key that writes and opens tokens. Printing or logging one
// shows its ID only.
type Key struct {
	ID     string // "kid": 1 to 64 letters, digits, dots, underscores and hyphens
	secret [keyBytes]byte
}

// String returns the key's ID.
func (k Key) String() string { return k.ID }

// GoString keeps the secret out of %#v.
func (k Key) GoString() string { return fmt.Sprintf("tokens.Key{ID: %q}", k.ID) }

// LogValue keeps the secret out of slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.ID) }

// NewKey makes a random key. Its ID begins with today's date (UTC), so that a
// listing shows how old each key is.
func NewKey() (Key, error) {
	var k Key
	if _, err := rand.Read(k.secret[:]); err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	var tail [4]byte
	if _, err := rand.Read(tail[:]); err != nil {
		return Key{}, fmt.Errorf("make key id: %w", err)
	}
	k.ID = "k" + time.Now().UTC().Format("20060102") + "-" + hex.EncodeToString(tail[:])
	return k, nil
}

type jwkSet struct {
	Keys []jwk `json:"keys"`
}

type jwk struct {
	Type   string `json:"kty"`
	ID     string `json:"kid"`
	Alg    string `json:"alg,omitempty"`
	Use    string `json:"use,omitempty"`
	Secret string `json:"k"`
}

// ParseKeys reads a JWK set: a keyring file's text, or the same in an
// environment variable. It refuses a set that is empty or in which any key is
// unusable: half a keyring would reject half of the users. Errors name the key
// by position and kid, never its secret.
func ParseKeys(text []byte) ([]Key, error) {
	var set jwkSet
	if err := json.Unmarshal(text, &set); err != nil {
		// The cause may quote the text, and the text is secret.
		return nil, errors.New(`the keyring is not a JSON object of the form {"keys":[…]}`)
	}
	if len(set.Keys) == 0 {
		return nil, errors.New("the keyring has no keys")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the keyring has %d keys; at most %d are allowed", len(set.Keys), maxKeys)
	}
	keys := make([]Key, 0, len(set.Keys))
	for i, j := range set.Keys {
		k, err := j.key()
		if err != nil {
			return nil, fmt.Errorf("key %d (kid %q) of the keyring: %w", i+1, clip(j.ID, 64), err)
		}
		keys = append(keys, k)
	}
	if err := checkKeys(keys); err != nil {
		return nil, err
	}
	return keys, nil
}

func (j jwk) key() (Key, error) {
	switch {
	case j.Type != "oct":
		return Key{}, fmt.Errorf(`kty is %q; it must be "oct"`, clip(j.Type, 16))
	case j.Alg != "" && j.Alg != "dir":
		return Key{}, fmt.Errorf(`alg is %q; it must be "dir"`, clip(j.Alg, 16))
	case j.Use != "" && j.Use != "enc":
		return Key{}, fmt.Errorf(`use is %q; it must be "enc"`, clip(j.Use, 16))
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(j.Secret)
	if err != nil {
		return Key{}, errors.New("k is not base64url without padding")
	}
	if len(secret) != keyBytes {
		return Key{}, fmt.Errorf("k has %d bytes; it must have %d", len(secret), keyBytes)
	}
	k := Key{ID: j.ID}
	copy(k.secret[:], secret)
	return k, nil
}

// checkKeys holds for every keyring, whatever it was made from.
func checkKeys(keys []Key) error {
	if len(keys) == 0 {
		return errors.New("the keyring has no keys")
	}
	if len(keys) > maxKeys {
		return fmt.Errorf("the keyring has %d keys; at most %d are allowed", len(keys), maxKeys)
	}
	seen := make(map[string]bool, len(keys))
	for i, k := range keys {
		switch {
		case !kidPattern.MatchString(k.ID):
			return fmt.Errorf("key %d of the keyring: kid must be 1 to 64 letters, digits, dots, underscores or hyphens", i+1)
		case seen[k.ID]:
			return fmt.Errorf("kid %q stands twice in the keyring", k.ID)
		case k.secret == [keyBytes]byte{}:
			return fmt.Errorf("kid %q of the keyring: the key is all zeros; make a random one", k.ID)
		}
		seen[k.ID] = true
	}
	return nil
}

// formatKeys is the inverse of ParseKeys.
func formatKeys(keys []Key) ([]byte, error) {
	set := jwkSet{Keys: make([]jwk, 0, len(keys))}
	for _, k := range keys {
		set.Keys = append(set.Keys, jwk{
			Type: "oct", ID: k.ID, Alg: "dir", Use: "enc",
			Secret: base64.RawURLEncoding.EncodeToString(k.secret[:]),
		})
	}
	text, err := json.MarshalIndent(set, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("format keyring: %w", err)
	}
	return append(text, '\n'), nil
}
