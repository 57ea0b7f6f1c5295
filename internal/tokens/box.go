package tokens

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

// boxKeys bounds the derived keys that a box keeps: one per replica and key of the
// keyring is in use, and replicas come and go.
const boxKeys = 256

var errNotSealed = errors.New("not sealed by a replica with a key of this keyring")

// Box seals what replicas tell each other, with the keys they share already.
//
// What it seals is read and believed by whoever has the keyring, and by nobody
// else. Each sender seals with a key of his own, derived from the keyring's first
// one (HKDF-SHA256, RFC 5869) for his id and the epoch of the log: so a counter will
// do as nonce. Random nonces are good for 2^32 seals a key (NIST SP 800-38D, 8.3),
// twelve days of 4,000/s. A sender must therefore take a new id at every start, as
// replicas do.
type Box struct {
	ring   *Keyring
	sender string
	epoch  string

	mu     sync.Mutex // guards all below
	sealed uint64     // messages sealed so far, the nonce
	keys   map[boxKey]cipher.AEAD
}

// boxKey has the secret, for a kid may be given to another one.
type boxKey struct {
	secret [keyBytes]byte
	sender string
}

// NewBox makes the box of a sender.
func NewBox(ring *Keyring, sender, epoch string) *Box {
	return &Box{ring: ring, sender: sender, epoch: epoch, keys: map[boxKey]cipher.AEAD{}}
}

// Seal encrypts with the key that issues tokens: its id, a counter, the ciphertext.
func (b *Box) Seal(plain []byte) ([]byte, error) {
	first := b.ring.current.Load().first
	b.mu.Lock()
	defer b.mu.Unlock()
	aead, err := b.key(first, b.sender)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	b.sealed++
	var nonce [12]byte
	binary.BigEndian.PutUint64(nonce[4:], b.sealed)
	sealed := make([]byte, 0, 1+len(first.ID)+len(nonce)+len(plain)+aead.Overhead())
	sealed = append(sealed, byte(len(first.ID)))
	sealed = append(sealed, first.ID...)
	sealed = append(sealed, nonce[:]...)
	return aead.Seal(sealed, nonce[:], plain, nil), nil
}

// Open decrypts what a sender has sealed, with any key of the keyring. It does not
// tell whether it was opened before.
func (b *Box) Open(sender string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 {
		return nil, errNotSealed
	}
	kidEnd := 1 + int(sealed[0])
	if len(sealed) < kidEnd+12 {
		return nil, errNotSealed
	}
	kid, rest := string(sealed[1:kidEnd]), sealed[kidEnd:]
	key, ok := b.ring.find(kid)
	if !ok {
		return nil, errNotSealed
	}
	b.mu.Lock()
	aead, err := b.key(key, sender)
	b.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	plain, err := aead.Open(nil, rest[:12], rest[12:], nil)
	if err != nil {
		return nil, errNotSealed
	}
	return plain, nil
}

// key derives the key of a sender, or remembers it. b.mu must be held.
func (b *Box) key(k Key, sender string) (cipher.AEAD, error) {
	id := boxKey{k.secret, sender}
	if aead := b.keys[id]; aead != nil {
		return aead, nil
	}
	secret, err := hkdf.Key(sha256.New, k.secret[:], nil, "restante box\x00"+b.epoch+"\x00"+sender, keyBytes)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	if len(b.keys) >= boxKeys {
		clear(b.keys) // anybody can invent senders
	}
	b.keys[id] = aead
	return aead, nil
}
