package hub

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"restante/internal/events"
)

const (
	// carryBytes bounds the events that go along in a notification. Sealed and in
	// base64 they take 6.2 KB of it, which leaves room to name fifty users.
	carryBytes = 4500

	cargoMark    = "+" // begins the line, which has no tab, as a user's has
	cargoVersion = 1   // first byte of a cargo; another one is left alone
)

// Box seals what replicas tell each other. LISTEN and NOTIFY know no privileges:
// whoever may connect to the database hears what is sent, and may send.
type Box interface {
	// Seal returns what only a replica can open.
	Seal(plain []byte) ([]byte, error)
	// Open returns what the sender has sealed, and an error if it was not him.
	Open(sender string, sealed []byte) ([]byte, error)
}

// cargo is what goes along in a notification.
type cargo struct {
	bytes   []byte // cargoVersion, then entry after entry
	entries int
}

// load adds the entries that still find room. The others are read from the log by
// whoever wants them, and so is everything if a cargo is lost: it is a hint as well.
// With it, a message crosses from one replica to another in 0.7 ms instead of 1.1, and
// four replicas on two cores take a third more.
func (c *cargo) load(entries iter.Seq[events.Entry]) {
	for e := range entries {
		if c.entries == 0 {
			c.bytes = append(make([]byte, 0, carryBytes), cargoVersion)
		}
		if len(c.bytes)+entryBytes(e) > carryBytes {
			return // later ones of this user would be of no use without it
		}
		c.bytes = appendEntry(c.bytes, e)
		c.entries++
	}
}

// ship writes the line of a cargo, if there is any.
func (f *Fanout) ship(b *strings.Builder, c cargo) {
	if c.entries == 0 {
		return
	}
	sealed, err := f.box.Seal(c.bytes)
	if err != nil {
		f.logger.Error("messages cannot be sealed; the other replicas read them from the log", "err", err)
		return
	}
	b.WriteString("\n" + cargoMark)
	b.WriteString(base64.RawStdEncoding.EncodeToString(sealed))
	f.metrics.shipped.Add(float64(c.entries))
}

// unload opens the line of a cargo. What cannot be opened is left alone.
func (f *Fanout) unload(from, line string) []events.Entry {
	entries, err := f.open(from, line)
	if err != nil {
		f.metrics.unopened.Inc()
		f.complain.Do(func() {
			f.logger.Warn("messages of a notification cannot be opened; they are read from the log. Do all replicas have the same keyring?", "err", err)
		})
		return nil
	}
	f.metrics.unloaded.Add(float64(len(entries)))
	return entries
}

func (f *Fanout) open(from, line string) ([]events.Entry, error) {
	sealed, err := base64.RawStdEncoding.DecodeString(line)
	if err != nil {
		return nil, err
	}
	plain, err := f.box.Open(from, sealed)
	if err != nil {
		return nil, err
	}
	if len(plain) > 0 && plain[0] != cargoVersion {
		return nil, nil // of a newer release
	}
	return parseCargo(plain)
}

// appendEntry writes an entry: seq and times (µs since 1970, as Postgres has them)
// as varints, then user, type, traceparent and payload, each after its length.
func appendEntry(b []byte, e events.Entry) []byte {
	b = binary.AppendVarint(b, e.Seq)
	b = binary.AppendVarint(b, e.CreatedAt.UnixMicro())
	b = binary.AppendVarint(b, e.ExpiresAt.UnixMicro())
	for _, s := range []string{e.UserID, e.Type, e.Traceparent} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return append(binary.AppendUvarint(b, uint64(len(e.Payload))), e.Payload...)
}

// entryBytes is the most that appendEntry adds.
func entryBytes(e events.Entry) int {
	const numbers = 3*binary.MaxVarintLen64 + 4*binary.MaxVarintLen32
	return numbers + len(e.UserID) + len(e.Type) + len(e.Traceparent) + len(e.Payload)
}

var errCargo = errors.New("not a cargo")

// parseCargo reads the bytes of a cargo.
func parseCargo(plain []byte) ([]events.Entry, error) {
	if len(plain) == 0 || plain[0] != cargoVersion {
		return nil, errCargo
	}
	r := cargoReader{rest: plain[1:], ok: true}
	var entries []events.Entry
	for len(r.rest) > 0 {
		var e events.Entry
		e.Seq = r.number()
		e.CreatedAt, e.ExpiresAt = time.UnixMicro(r.number()), time.UnixMicro(r.number())
		e.UserID, e.Type, e.Traceparent = string(r.bytes()), string(r.bytes()), string(r.bytes())
		e.Payload = slices.Clone(r.bytes()) // or one that is kept would keep all
		if !r.ok {
			return nil, errCargo
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// cargoReader reads until something is not there; from then on ok is false.
type cargoReader struct {
	rest []byte
	ok   bool
}

func (r *cargoReader) number() int64 {
	v, n := binary.Varint(r.rest)
	return r.skip(n, v)
}

func (r *cargoReader) skip(n int, v int64) int64 {
	if n <= 0 {
		r.ok, r.rest = false, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *cargoReader) bytes() []byte {
	size, n := binary.Uvarint(r.rest)
	r.skip(n, 0)
	if size > uint64(len(r.rest)) {
		r.ok, r.rest = false, nil
		return nil
	}
	b := r.rest[:size:size]
	r.rest = r.rest[size:]
	return b
}
