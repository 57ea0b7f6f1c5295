package tokens

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// reloadEvery is how often Run looks at the file: a rotation by hand is in
	// force everywhere before the hand has left the keyboard.
	reloadEvery = 5 * time.Second
	// missEvery bounds how often unknown kids, which anybody can send, make us
	// read the file.
	missEvery = 250 * time.Millisecond
)

// Keyring is the set of keys in force. It is safe for concurrent use. One made
// by [OpenKeyring] follows its file while [Keyring.Run] runs.
type Keyring struct {
	path string // "" for one that never changes
	log  *slog.Logger

	// current is replaced whole, and only under mu.
	current atomic.Pointer[keyset]

	// mu is held while the file is read, and guards what was found there last.
	mu      sync.Mutex
	looked  time.Time
	seen    [sha256.Size]byte // of the text that current was made from
	problem string            // the error that was logged last, "" when all is well
	warned  bool              // that everybody may read the file

	reloaded, failed atomic.Int64
}

// keyset is immutable.
type keyset struct {
	byID   map[string]Key
	first  Key            // issues
	sealer jose.Encrypter // with the first key
}

// NewKeyring returns a keyring of these keys, which stays as it is. The first
// one issues.
func NewKeyring(keys ...Key) (*Keyring, error) {
	set, err := newKeyset(keys)
	if err != nil {
		return nil, err
	}
	r := &Keyring{}
	r.current.Store(set)
	return r, nil
}

// OpenKeyring reads the keyring at path; see [ReadFile] for what is refused.
func OpenKeyring(path string, log *slog.Logger) (*Keyring, error) {
	r := &Keyring{path: path, log: log}
	if err := r.load(); err != nil {
		return nil, err
	}
	return r, nil
}

// Run looks at the file every few seconds until ctx is done, and then returns
// nil. There is nothing to do for a keyring without a file.
func (r *Keyring) Run(ctx context.Context) error {
	if r.path == "" {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			_ = r.Reload() // logged and counted there; the keys in force stay
		}
	}
}

// Reload looks at the file now. When it cannot be used, the keys in force stay
// and the error is returned; it is logged when it is another one than last time.
func (r *Keyring) Reload() error {
	if r.path == "" {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reload()
}

// find returns the key with this ID. When there is none it looks at the file
// first: another replica may have been quicker to notice a rotation.
func (r *Keyring) find(id string) (Key, bool) {
	key, ok := r.current.Load().byID[id]
	if ok || r.path == "" || !kidPattern.MatchString(id) {
		return key, ok
	}
	r.mu.Lock()
	if time.Since(r.looked) >= missEvery {
		_ = r.reload() // logged and counted there
	}
	r.mu.Unlock()
	key, ok = r.current.Load().byID[id]
	return key, ok
}

// reload is load with its outcome counted and logged. mu must be held.
func (r *Keyring) reload() error {
	err := r.load()
	switch {
	case err != nil:
		r.failed.Add(1)
		if err.Error() != r.problem {
			r.problem = err.Error()
			r.log.Error("keyring not reloaded, the keys in force stay", "path", r.path, "err", err)
		}
	case r.problem != "":
		r.problem = ""
		r.log.Info("keyring readable again", "path", r.path)
	}
	return err
}

// load reads the file and replaces current when the text has changed. The text
// decides, not the file's time: a copy may keep its time, and the file is small.
// mu must be held, except by the constructor.
func (r *Keyring) load() error {
	r.looked = time.Now()
	text, public, err := readKeyring(r.path)
	if err != nil {
		return err
	}
	if public && !r.warned {
		r.log.Warn("keyring may be read by every user of this machine; chmod 600 is better", "path", r.path)
	}
	r.warned = public
	sum := sha256.Sum256(text)
	if sum == r.seen {
		return nil
	}
	keys, err := ParseKeys(text)
	if err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	set, err := newKeyset(keys)
	if err != nil {
		return fmt.Errorf("%s: %w", r.path, err)
	}
	first := r.current.Swap(set) == nil
	r.seen = sum
	if !first {
		r.reloaded.Add(1)
		r.log.Info("keyring reloaded", "path", r.path, "issuing_kid", keys[0].ID, "keys", len(keys))
	}
	return nil
}

func newKeyset(keys []Key) (*keyset, error) {
	if err := checkKeys(keys); err != nil {
		return nil, err
	}
	set := &keyset{byID: make(map[string]Key, len(keys)), first: keys[0]}
	for _, k := range keys {
		set.byID[k.ID] = k
	}
	var err error
	set.sealer, err = jose.NewEncrypter(jose.A256GCM,
		jose.Recipient{Algorithm: jose.DIRECT, Key: keys[0].secret[:], KeyID: keys[0].ID}, nil)
	if err != nil {
		return nil, fmt.Errorf("use key %q: %w", keys[0].ID, err)
	}
	return set, nil
}
