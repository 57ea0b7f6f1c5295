package tokens

import (
	"bytes"
	"fmt"
	"testing"
)

// boxes are those of replicas that share a keyring.
func boxes(t *testing.T, epoch string, keys []Key, senders ...string) []*Box {
	t.Helper()
	var all []*Box
	for _, sender := range senders {
		ring, err := NewKeyring(keys...)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, NewBox(ring, sender, epoch))
	}
	return all
}

func seal(t *testing.T, b *Box, plain string) []byte {
	t.Helper()
	sealed, err := b.Seal([]byte(plain))
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestBoxOpensWhatTheSenderSealed(t *testing.T) {
	t.Parallel()
	two := boxes(t, "e1", []Key{newKey(t)}, "a", "b")
	a, b := two[0], two[1]
	for _, plain := range []string{"", "hello", string(make([]byte, 8000))} {
		sealed := seal(t, a, plain)
		got, err := b.Open("a", sealed)
		if err != nil || string(got) != plain {
			t.Errorf("%d bytes came out as %d: %v", len(plain), len(got), err)
		}
		if len(plain) > 0 && bytes.Contains(sealed, []byte(plain)) {
			t.Errorf("%q can be read in %q", plain, sealed)
		}
	}
}

func TestBoxOpensNothingElse(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	two := boxes(t, "e1", []Key{key}, "a", "b")
	a, b := two[0], two[1]
	sealed := seal(t, a, "hello")
	elsewhere := boxes(t, "e2", []Key{key}, "b")[0]
	stranger := boxes(t, "e1", []Key{newKey(t)}, "a")[0]
	for name, try := range map[string]func() ([]byte, error){
		"another sender":   func() ([]byte, error) { return b.Open("b", sealed) },
		"another epoch":    func() ([]byte, error) { return elsewhere.Open("a", sealed) },
		"another keyring":  func() ([]byte, error) { return b.Open("a", seal(t, stranger, "hello")) },
		"nothing":          func() ([]byte, error) { return b.Open("a", nil) },
		"the longest kid":  func() ([]byte, error) { return b.Open("a", append([]byte{255}, make([]byte, 8000)...)) },
		"a kid cut short":  func() ([]byte, error) { return b.Open("a", []byte{200, 'k'}) },
		"no ciphertext":    func() ([]byte, error) { return b.Open("a", sealed[:1+len(key.ID)+12]) },
		"the end cut off":  func() ([]byte, error) { return b.Open("a", sealed[:len(sealed)-1]) },
		"something behind": func() ([]byte, error) { return b.Open("a", append(bytes.Clone(sealed), 0)) },
	} {
		if plain, err := try(); err == nil {
			t.Errorf("%s: opened as %q", name, plain)
		}
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if plain, err := b.Open("a", changed); err == nil {
			t.Errorf("byte %d changed: opened as %q", i, plain)
		}
	}
}

// FuzzBoxOpen: anybody who may connect to the database can send anything.
func FuzzBoxOpen(f *testing.F) {
	key, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	key.ID = "k"
	ring, err := NewKeyring(key)
	if err != nil {
		f.Fatal(err)
	}
	b := NewBox(ring, "b", "e1")
	f.Add([]byte{})
	f.Add([]byte{1, 'k'})
	f.Add(append([]byte{255}, make([]byte, 300)...))
	f.Add(append([]byte{1, 'k'}, make([]byte, 12+16)...))
	f.Fuzz(func(t *testing.T, sealed []byte) {
		if plain, err := b.Open("a", sealed); err == nil {
			t.Errorf("%x: opened as %q", sealed, plain)
		}
	})
}

// While keys are rotated, replicas do not change theirs at the same time.
func TestBoxOpensWithEveryKeyOfTheRing(t *testing.T) {
	t.Parallel()
	before, after := newKey(t), newKey(t)
	a := boxes(t, "e1", []Key{after, before}, "a")[0]
	b := boxes(t, "e1", []Key{before, after}, "b")[0]
	if got, err := b.Open("a", seal(t, a, "new")); err != nil || string(got) != "new" {
		t.Errorf("sealed with the new key: %q, %v", got, err)
	}
	if got, err := a.Open("b", seal(t, b, "old")); err != nil || string(got) != "old" {
		t.Errorf("sealed with the old key: %q, %v", got, err)
	}
}

// A nonce used twice with one key gives both plaintexts away.
func TestBoxNeverSealsTwiceWithOneNonce(t *testing.T) {
	t.Parallel()
	key := newKey(t)
	a := boxes(t, "e1", []Key{key}, "a")[0]
	seen := map[string]bool{}
	for range 1000 {
		head := string(seal(t, a, "x")[:1+len(key.ID)+12])
		if seen[head] {
			t.Fatalf("twice: %x", head)
		}
		seen[head] = true
	}
}

// Anybody who may NOTIFY can name senders that do not exist.
func TestBoxRemembersABoundedNumberOfSenders(t *testing.T) {
	t.Parallel()
	b := boxes(t, "e1", []Key{newKey(t)}, "b")[0]
	sealed := seal(t, b, "x")
	for i := range 10 * boxKeys {
		if _, err := b.Open(fmt.Sprint("invented ", i), sealed); err == nil {
			t.Fatal("opened")
		}
		if len(b.keys) > boxKeys {
			t.Fatalf("%d keys are remembered", len(b.keys))
		}
	}
}
