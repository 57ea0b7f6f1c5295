package tokens

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"restante/internal/testdb"
)

func keyring(t testing.TB, keys ...Key) *Keyring {
	t.Helper()
	if len(keys) == 0 {
		keys = []Key{newKey(t)}
	}
	r, err := NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func issue(t testing.TB, tokens *Tokens, user string) string {
	t.Helper()
	token, _, err := tokens.Issue(t.Context(), user, user+"'s name")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func rows(t testing.TB, db *testdb.Database) (n int) {
	t.Helper()
	if err := db.Pool.QueryRow(t.Context(), "SELECT count(*) FROM tokens").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	reg := prometheus.NewPedanticRegistry()
	tokens := New(db.Pool, keyring(t), Config{}, reg)
	before := time.Now()
	token, expires, err := tokens.Issue(t.Context(), "ann", "Ann of Green Gables")
	if err != nil {
		t.Fatal(err)
	}
	if d := expires.Sub(before); d < 30*time.Second || d > 32*time.Second {
		t.Errorf("expires in %v, want 30 to 31 s", d)
	}
	c, err := tokens.Redeem(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	want := Claims{UserID: "ann", Username: "Ann of Green Gables", ExpiresAt: expires}
	if c != want {
		t.Errorf("Redeem = %+v, want %+v", c, want)
	}
	_, err = tokens.Redeem(t.Context(), token)
	if !errors.Is(err, ErrRejected) || errors.Is(err, ErrUnavailable) || ReasonOf(err) != ReasonUsed {
		t.Errorf("second Redeem: %v, want %v: used", err, ErrRejected)
	}
	if strings.Contains(err.Error(), token[:40]) {
		t.Errorf("the error shows the token: %v", err)
	}
	expect := `
# HELP restante_tokens_issued_total Single-use tokens asked for, by result.
# TYPE restante_tokens_issued_total counter
restante_tokens_issued_total{result="error"} 0
restante_tokens_issued_total{result="ok"} 1
restante_tokens_issued_total{result="unavailable"} 0
# HELP restante_tokens_keyring_keys Keys in force; the first one issues, all of them open.
# TYPE restante_tokens_keyring_keys gauge
restante_tokens_keyring_keys 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(expect), "restante_tokens_issued_total", "restante_tokens_keyring_keys"); err != nil {
		t.Error(err)
	}
	for result, n := range map[string]float64{"ok": 1, "used": 1, "expired": 0} {
		if got := testutil.ToFloat64(tokens.metrics.redeemed.WithLabelValues(result)); got != n {
			t.Errorf("redeemed{result=%q} = %v, want %v", result, got, n)
		}
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}

func TestIssueRefusesWhatIsNoUser(t *testing.T) {
	t.Parallel()
	tokens := New(nil, keyring(t), Config{}, nil) // it does not get as far as the database
	for _, id := range []string{"", "a\xff"} {
		if _, _, err := tokens.Issue(t.Context(), id, ""); err == nil {
			t.Errorf("Issue(%q) took it", id)
		}
	}
}

func TestOnlyOneRedeemerWins(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	key := newKey(t)
	var replicas []*Tokens
	for range 3 {
		pool, err := pgxpool.New(t.Context(), db.URL)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		replicas = append(replicas, New(pool, keyring(t, key), Config{}, nil))
	}
	for round := range 5 {
		token := issue(t, replicas[round%3], "ann")
		const redeemers = 50
		errs := make([]error, redeemers)
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range redeemers {
			wg.Go(func() {
				<-start
				_, errs[i] = replicas[i%3].Redeem(t.Context(), token)
			})
		}
		close(start)
		wg.Wait()
		won := 0
		for _, err := range errs {
			switch {
			case err == nil:
				won++
			case ReasonOf(err) != ReasonUsed:
				t.Errorf("loser got %v, want used", err)
			}
		}
		if won != 1 {
			t.Errorf("round %d: %d redeemers got in, want 1", round, won)
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	a, b := newKey(t), newKey(t)
	// Two replicas share the keyring's file, and look at it when they have to.
	one, path, _ := openKeyring(t, a)
	two, err := OpenKeyring(path, one.log)
	if err != nil {
		t.Fatal(err)
	}
	first, second := New(db.Pool, one, Config{}, nil), New(db.Pool, two, Config{}, nil)
	early := [2]string{issue(t, first, "ann"), issue(t, first, "bob")}

	if err := AddKey(path, b, true); err != nil {
		t.Fatal(err)
	}
	if err := one.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Redeem(t.Context(), early[0]); err != nil {
		t.Errorf("a token from before the rotation: %v", err)
	}
	two.mu.Lock()
	two.looked = time.Time{} // as if it had been opened a second ago
	two.mu.Unlock()
	if _, err := second.Redeem(t.Context(), issue(t, first, "carl")); err != nil {
		t.Errorf("a token of the new key, at the replica that did not look yet: %v", err)
	}

	if err := RemoveKey(path, a.ID); err != nil {
		t.Fatal(err)
	}
	if err := one.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Redeem(t.Context(), early[1]); ReasonOf(err) != ReasonKey {
		t.Errorf("a token of the removed key: %v, want key", err)
	}
}

func TestLapsed(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	keys := keyring(t)
	tokens := New(db.Pool, keys, Config{}, nil)

	// A redeemer whose clock stands still is overruled by Postgres's.
	token := issue(t, tokens, "ann")
	if _, err := db.Pool.Exec(t.Context(), "UPDATE tokens SET expires_at = expires_at - interval '36 seconds'"); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Redeem(t.Context(), token); ReasonOf(err) != ReasonExpired {
		t.Errorf("row lapsed: %v, want expired", err)
	}
	if n := rows(t, db); n != 0 {
		t.Errorf("%d rows left", n)
	}

	// A redeemer that is late by its own clock does not ask Postgres.
	token = issue(t, tokens, "ann")
	late := New(nil, keys, Config{}, nil)
	late.now = func() time.Time { return time.Now().Add(30*time.Second + leeway + 2*time.Second) }
	if _, err := late.Redeem(t.Context(), token); ReasonOf(err) != ReasonExpired {
		t.Errorf("late: %v, want expired", err)
	}

	// Clocks an hour apart from Postgres's, but not from each other, are fine.
	off := New(db.Pool, keys, Config{}, nil)
	off.now = func() time.Time { return time.Now().Add(-time.Hour) }
	if _, err := off.Redeem(t.Context(), issue(t, off, "ann")); err != nil {
		t.Errorf("an hour behind Postgres: %v", err)
	}
	// A little skew between replicas is fine either way.
	for _, skew := range []time.Duration{-time.Minute, 4 * time.Second} {
		off.now = func() time.Time { return time.Now().Add(skew) }
		if _, err := off.Redeem(t.Context(), issue(t, tokens, "ann")); err != nil {
			t.Errorf("redeemer off by %v: %v", skew, err)
		}
	}
}

func TestOtherServicesTokensAreRejected(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	keys := keyring(t)
	token := issue(t, New(db.Pool, keys, Config{Issuer: "other"}, nil), "ann")
	if _, err := New(db.Pool, keys, Config{}, nil).Redeem(t.Context(), token); ReasonOf(err) != ReasonIssuer {
		t.Errorf("error %v, want issuer", err)
	}
	if n := rows(t, db); n != 1 {
		t.Errorf("%d rows, want 1: a rejected token is not used up", n)
	}
}

func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	pool, err := pgxpool.New(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	tokens := New(pool, keyring(t), Config{}, nil)
	token := issue(t, tokens, "ann")
	pool.Close()
	_, err = tokens.Redeem(t.Context(), token)
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRejected) {
		t.Errorf("Redeem: %v, want %v", err, ErrUnavailable)
	}
	if _, _, err := tokens.Issue(t.Context(), "ann", ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Issue: %v, want %v", err, ErrUnavailable)
	}
	if _, err := tokens.Purge(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Purge: %v, want %v", err, ErrUnavailable)
	}
	// A caller that has gone away is not a bad token either.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(db.Pool, tokens.keys, Config{}, nil).Redeem(ctx, token); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Redeem, cancelled: %v, want %v wrapping %v", err, ErrUnavailable, context.Canceled)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	tokens := New(db.Pool, keyring(t), Config{}, nil)
	live := issue(t, tokens, "ann")
	const expired = 2*purgeBatch + 7
	if _, err := db.Pool.Exec(t.Context(),
		"INSERT INTO tokens SELECT 'old' || i, now() - interval '6 seconds' FROM generate_series(1, $1) i", expired); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Pool.Exec(t.Context(), "INSERT INTO tokens VALUES ('in leeway', now() - interval '1 second')"); err != nil {
		t.Fatal(err)
	}
	var total int64
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 2 { // two replicas at once
		wg.Go(func() {
			n, err := tokens.Purge(t.Context())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			total += n
			mu.Unlock()
		})
	}
	wg.Wait()
	// A batch that skipped the other's rows ends its call early; the rest is
	// for the next one.
	n, err := tokens.Purge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if total += n; total != expired {
		t.Errorf("%d purged, want %d", total, expired)
	}
	if n := rows(t, db); n != 2 {
		t.Errorf("%d rows left, want 2", n)
	}
	if _, err := tokens.Redeem(t.Context(), live); err != nil {
		t.Errorf("a live token after Purge: %v", err)
	}
}

func TestConcurrentIssue(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	tokens := New(db.Pool, keyring(t), Config{}, nil)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			user := fmt.Sprintf("user-%d", i)
			token, _, err := tokens.Issue(t.Context(), user, "")
			if err != nil {
				t.Error(err)
				return
			}
			if c, err := tokens.Redeem(t.Context(), token); err != nil || c.UserID != user {
				t.Errorf("Redeem = %+v, %v, want %s", c, err, user)
			}
		})
	}
	wg.Wait()
}
