package events

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxUserIDBytes is the longest user id the log takes, in bytes of UTF-8. The
// schema has the same limit.
const MaxUserIDBytes = 256

// ValidUserID is the one rule for user ids, whatever door they come in by: 1 to
// [MaxUserIDBytes] bytes of valid UTF-8, without control characters (C0, DEL,
// C1) and without U+FFFD. It returns nil, or an error whose text is a sentence
// that may be shown to whoever sent the id; it never repeats the id itself.
//
// U+FFFD is what decoders put in place of bytes they could not read. With it
// allowed, two different damaged ids would become one user, and one of them
// would read the other's messages.
func ValidUserID(id string) error {
	if id == "" {
		return errors.New("the user id is empty; it needs 1 to 256 bytes")
	}
	if len(id) > MaxUserIDBytes {
		return fmt.Errorf("the user id is %d bytes long; at most %d are allowed", len(id), MaxUserIDBytes)
	}
	for i, r := range id {
		switch {
		case r == utf8.RuneError:
			// Covers both the character itself and invalid bytes, which range
			// yields as RuneError.
			return fmt.Errorf("the user id is not valid text at byte %d: send UTF-8, without the replacement character U+FFFD", i)
		case r < 0x20, 0x7f <= r && r <= 0x9f:
			return fmt.Errorf("the user id has the control character U+%04X at byte %d; control characters are not allowed", r, i)
		}
	}
	return nil
}
