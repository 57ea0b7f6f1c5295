package publishers

import (
	"context"
	"errors"
	"fmt"
)

// Rates are how much a key may post a second on each replica. nil is the replica's
// default, 0 no limit.
type Rates struct {
	Messages *int64
	Bytes    *int64 // of the messages alone
}

func (r Rates) check() error {
	if r.Messages != nil && *r.Messages < 0 || r.Bytes != nil && *r.Bytes < 0 {
		return errors.New("a rate must not be negative; 0 is no limit")
	}
	return nil
}

const setRatesSQL = `UPDATE publishers SET rate_messages = $2, rate_bytes = $3 WHERE key_id = $1`

// SetRates changes what a key may post: here at once, on other replicas within
// [RevokeWithin]. It returns ErrInvalid, ErrNotFound when there is no such key, and
// ErrUnavailable.
func (k *Keys) SetRates(ctx context.Context, keyID string, rates Rates) error {
	if err := rates.check(); err != nil {
		return fmt.Errorf("set rates of API key: %w: %w", ErrInvalid, err)
	}
	if !isHex(keyID, idDigits) {
		return fmt.Errorf("set rates of API key: %w", ErrNotFound)
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	tag, err := k.db.Exec(ctx, setRatesSQL, keyID, rates.Messages, rates.Bytes)
	// Also when the outcome is unknown: looking again is always right.
	k.cache.forget(keyID)
	if err != nil {
		return fmt.Errorf("set rates of API key: %w: %w", ErrUnavailable, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("set rates of API key: %w", ErrNotFound)
	}
	return nil
}
