package hub_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"restante/internal/events"
	"restante/internal/hub"
	"restante/internal/testdb"
	"restante/internal/tokens"
)

// ring is a keyring with one new key.
func ring(t *testing.T) *tokens.Keyring {
	t.Helper()
	key, err := tokens.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.NewKeyring(key)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// knownRing is the same keyring for all Fanouts of a test.
func knownRing(t *testing.T) *tokens.Keyring {
	t.Helper()
	keys, err := tokens.ParseKeys([]byte(`{"keys":[{"kty":"oct","kid":"test","k":"dGhlIHNhbWUgdGhpcnR5LXR3byBieXRlcyBldmVyeSE"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	ring, err := tokens.NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func boxed(ring *tokens.Keyring, epoch string) func(*hub.FanoutConfig) {
	return func(cfg *hub.FanoutConfig) { cfg.Box = tokens.NewBox(ring, cfg.ReplicaID, epoch) }
}

func posted(user string, seq int64, payload string) events.Entry {
	at := time.Now().Truncate(time.Microsecond)
	return events.Entry{UserID: user, Event: events.Event{Seq: seq, Payload: []byte(payload), CreatedAt: at, ExpiresAt: at.Add(time.Hour)}}
}

// carried are the seqs that came along for a user.
func (l *listener) carried(user string) (seqs []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries {
		if e.UserID == user {
			seqs = append(seqs, e.Seq)
		}
	}
	return seqs
}

func TestMessagesGoAlongSealed(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	payloads := tap(t, db.URL)
	keys := ring(t)
	a, b := startFanout(t, db.URL, "a", boxed(keys, "e")), startFanout(t, db.URL, "b", boxed(keys, "e"))
	a.SetPeers(1)
	want := posted("aloysius", 1, `"the secret of al"`)
	a.Publish([]events.Head{{UserID: "aloysius", Seq: 1}}, slices.Values([]events.Entry{want}))
	b.receives(t, events.Head{UserID: "aloysius", Seq: 1})
	b.mu.Lock()
	defer b.mu.Unlock()
	if fmt.Sprint(b.entries) != fmt.Sprint([]events.Entry{want}) {
		t.Errorf("%v came along, want %v", b.entries, want)
	}
	for _, p := range payloads() {
		if strings.Contains(p, "secret") || strings.Contains(p, "aloysius") {
			t.Errorf("everybody who may connect can read %q", p)
		}
	}
}

// There is room for some messages in a notification; the heads of all are told.
func TestMoreThanGoesAlongIsStillTold(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	keys := ring(t)
	a, b := startFanout(t, db.URL, "a", boxed(keys, "e")), startFanout(t, db.URL, "b", boxed(keys, "e"))
	a.SetPeers(1)
	var heads []events.Head
	var entries []events.Entry
	for i := range 1000 {
		user := fmt.Sprint("user-", i)
		heads = append(heads, events.Head{UserID: user, Seq: 1})
		entries = append(entries, posted(user, 1, `"`+strings.Repeat("x", 250)+`"`))
	}
	a.Publish(heads, slices.Values(entries))
	for _, head := range heads {
		b.receives(t, head)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.entries); n < 5 || n > 20 {
		t.Errorf("%d messages came along", n)
	}
}

// Whoever may connect to the database may NOTIFY, and repeat what others sent.
func TestForgedNotificationsAreNotBelieved(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	payloads := tap(t, db.URL)
	keys := ring(t)
	b := startFanout(t, db.URL, "b", boxed(keys, "e"))
	for id, forger := range map[string]func(*hub.FanoutConfig){
		"stranger": boxed(ring(t), "e"),  // has no key of ours
		"restored": boxed(keys, "other"), // speaks of another log
	} {
		f := startFanout(t, db.URL, id, forger)
		f.SetPeers(1)
		f.Publish([]events.Head{{UserID: id, Seq: 1}}, slices.Values([]events.Entry{posted(id, 1, `"forged"`)}))
	}
	a := startFanout(t, db.URL, "a", boxed(keys, "e"))
	a.SetPeers(1)
	a.Publish([]events.Head{{UserID: "al", Seq: 1}}, slices.Values([]events.Entry{posted("al", 1, `"hello"`)}))
	b.receives(t, events.Head{UserID: "al", Seq: 1})
	var sealed string
	until(t, "the payload is seen", func() bool {
		for _, p := range payloads() {
			if rest, ok := strings.CutPrefix(p, "a\n"); ok {
				sealed = rest
			}
		}
		return sealed != ""
	})
	for _, forged := range []string{
		"c\n" + sealed, "a\n" + sealed[:len(sealed)-4], "a\n+", "a\n%%%", "a\nAAAA", "a\n" + sealed + "\nal\t9", "a\nal\t9",
	} {
		notify(t, db, forged)
	}
	a.Publish([]events.Head{{UserID: "al", Seq: 2}}, nil)
	b.receives(t, events.Head{UserID: "al", Seq: 2})
	b.mu.Lock()
	defer b.mu.Unlock()
	if want := []events.Head{{UserID: "al", Seq: 1}, {UserID: "al", Seq: 2}}; !slices.Equal(b.heads, want) || len(b.entries) != 1 {
		t.Errorf("received %v and %v, want %v", b.heads, b.entries, want)
	}
}
