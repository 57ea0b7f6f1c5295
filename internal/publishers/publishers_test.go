package publishers

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"restante/internal/testdb"
)

func TestMain(m *testing.M) { testdb.Main(m) }

func create(t *testing.T, k *Keys, scopes ...string) (Publisher, string) {
	t.Helper()
	p, key, err := k.Create(t.Context(), "orders", scopes, "")
	if err != nil {
		t.Fatal(err)
	}
	return p, key
}

func TestCreateAndAuthenticate(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	reg := prometheus.NewPedanticRegistry()
	k := New(db.Pool, reg)
	created, key, err := k.Create(t.Context(), "orders", []string{"read", "publish", "read"}, "shop/")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(created.Scopes, []string{"publish", "read"}) || created.UserPrefix != "shop/" || created.CreatedAt.IsZero() {
		t.Errorf("created %+v", created)
	}
	if !strings.HasPrefix(key, "rk_"+created.KeyID+"_") || len(key) != 84 {
		t.Errorf("the key has %d bytes and does not look like one", len(key))
	}
	p, err := k.Authenticate(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if p.KeyID != created.KeyID || p.Name != "orders" || p.UserPrefix != "shop/" || !slices.Equal(p.Scopes, created.Scopes) || p.RevokedAt != nil {
		t.Errorf("Authenticate = %+v, want %+v", p, created)
	}
	if !p.HasScope(ScopePublish) || p.HasScope("admin") || !p.MayReach("shop/ann") || p.MayReach("ann") {
		t.Error("scopes or prefix are not respected")
	}

	// Only the hash is stored.
	var all string
	var hash []byte
	if err := db.Pool.QueryRow(t.Context(), "SELECT publishers::text, secret_hash FROM publishers").Scan(&all, &hash); err != nil {
		t.Fatal(err)
	}
	secret := key[len(key)-secretDigits:]
	if strings.Contains(all, secret) {
		t.Error("the secret is in the table")
	}
	if want := sha256.Sum256([]byte(secret)); !slices.Equal(hash, want[:]) {
		t.Error("what is stored is not the secret's SHA-256")
	}

	// What one caller does to its copy is not what the next one gets.
	p.Scopes[0] = "admin"
	if p, err := k.Authenticate(t.Context(), key); err != nil || p.HasScope("admin") {
		t.Errorf("Authenticate = %+v, %v", p, err)
	}
	if got := testutil.ToFloat64(k.metrics.checks.WithLabelValues("ok")); got != 2 {
		t.Errorf("%v checks counted as ok, want 2", got)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	k := New(nil, nil) // it does not get as far as the database
	for name, c := range map[string]struct {
		name, prefix string
		scopes       []string
	}{
		"no name":        {"", "", []string{"publish"}},
		"long name":      {strings.Repeat("x", 129), "", []string{"publish"}},
		"name with NUL":  {"a\x00", "", []string{"publish"}},
		"name no UTF-8":  {"a\xff", "", []string{"publish"}},
		"OIDC's name":    {"oidc:billing", "", []string{"publish"}},
		"long prefix":    {"a", strings.Repeat("x", 257), []string{"publish"}},
		"prefix newline": {"a", "a\n", []string{"publish"}},
		"no scope":       {"a", "", nil},
		"unknown scope":  {"a", "", []string{"publish", "root"}},
	} {
		if _, _, err := k.Create(t.Context(), c.name, c.scopes, c.prefix); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, ErrInvalid)
		}
	}
}

func TestAuthenticateRejects(t *testing.T) {
	t.Parallel()
	k := New(testdb.New(t).Pool, nil)
	p, key := create(t, k, ScopePublish)
	revoked, revokedKey := create(t, k, ScopePublish)
	if err := k.Revoke(t.Context(), revoked.KeyID); err != nil {
		t.Fatal(err)
	}
	other := "0"
	if strings.HasSuffix(key, "0") {
		other = "1"
	}
	for name, c := range map[string]struct {
		key  string
		want Reason
	}{
		"empty":           {"", ReasonMalformed},
		"id only":         {"rk_" + p.KeyID, ReasonMalformed},
		"no prefix":       {key[3:], ReasonMalformed},
		"upper case":      {strings.ToUpper(key), ReasonMalformed},
		"NUL":             {key[:len(key)-1] + "\x00", ReasonMalformed},
		"too long":        {key + "0", ReasonMalformed},
		"megabyte":        {strings.Repeat("rk_", 1<<20), ReasonMalformed},
		"dash in between": {strings.Replace(key, p.KeyID+"_", p.KeyID+"-", 1), ReasonMalformed},
		"unknown id":      {keyText(strings.Repeat("0", idDigits), key[len(key)-secretDigits:]), ReasonUnknown},
		"other secret":    {key[:len(key)-1] + other, ReasonSecret},
		"another's":       {keyText(p.KeyID, revokedKey[len(key)-secretDigits:]), ReasonSecret},
		"revoked":         {revokedKey, ReasonRevoked},
	} {
		_, err := k.Authenticate(t.Context(), c.key)
		if !errors.Is(err, ErrRejected) || ReasonOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if c.key != "" && strings.Contains(err.Error(), c.key) {
			t.Errorf("%s: the error shows the key", name)
		}
	}
	if _, err := k.Authenticate(t.Context(), key); err != nil {
		t.Errorf("the good key after all that: %v", err)
	}
}

func TestRevokeTakesEffect(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	here, there := New(db.Pool, nil), New(db.Pool, nil) // two replicas
	clock := time.Now()
	there.cache.now = func() time.Time { return clock }
	p, key := create(t, here, ScopePublish)
	for _, k := range []*Keys{here, there} {
		if _, err := k.Authenticate(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if err := here.Revoke(t.Context(), p.KeyID); err != nil {
		t.Fatal(err)
	}
	if _, err := here.Authenticate(t.Context(), key); ReasonOf(err) != ReasonRevoked {
		t.Errorf("where it was revoked: %v, want revoked", err)
	}
	clock = clock.Add(RevokeWithin - time.Millisecond)
	if _, err := there.Authenticate(t.Context(), key); err != nil {
		t.Errorf("elsewhere, before RevokeWithin: %v; it was not served from the copy", err)
	}
	clock = clock.Add(time.Millisecond)
	if _, err := there.Authenticate(t.Context(), key); ReasonOf(err) != ReasonRevoked {
		t.Errorf("elsewhere, after RevokeWithin: %v, want revoked", err)
	}

	list, err := here.List(t.Context())
	if err != nil || len(list) != 1 || list[0].RevokedAt == nil {
		t.Fatalf("List = %+v, %v", list, err)
	}
	first := *list[0].RevokedAt
	if err := there.Revoke(t.Context(), p.KeyID); err != nil {
		t.Errorf("second Revoke: %v", err)
	}
	if list, err := here.List(t.Context()); err != nil || !list[0].RevokedAt.Equal(first) {
		t.Errorf("the second Revoke changed when it was revoked: %v, %v", list, err)
	}
	for _, id := range []string{"0123456789abcdef", "", "x\x00", strings.Repeat("a", 5000)} {
		if err := here.Revoke(t.Context(), id); !errors.Is(err, ErrNotFound) {
			t.Errorf("Revoke(%.20q) = %v, want %v", id, err, ErrNotFound)
		}
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	k := New(testdb.New(t).Pool, nil)
	if list, err := k.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List = %v, %v, want none", list, err)
	}
	a, _ := create(t, k, ScopePublish)
	b, _ := create(t, k, ScopeRead)
	list, err := k.List(t.Context())
	if err != nil || len(list) != 2 || list[0].KeyID != a.KeyID || list[1].KeyID != b.KeyID {
		t.Errorf("List = %+v, %v", list, err)
	}
}

func TestRates(t *testing.T) {
	t.Parallel()
	k := New(testdb.New(t).Pool, nil)
	number := func(n int64) *int64 { return &n }
	rates := func(key string) string {
		t.Helper()
		p, err := k.Authenticate(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		list, err := k.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(list, func(l Publisher) bool { return l.KeyID == p.KeyID })
		text := func(r Rates) string {
			s := ""
			for _, n := range []*int64{r.Messages, r.Bytes} {
				if n == nil {
					s += " default"
				} else {
					s += fmt.Sprint(" ", *n)
				}
			}
			return s
		}
		if text(p.Rates) != text(list[i].Rates) {
			t.Errorf("listed %s, authenticated %s", text(list[i].Rates), text(p.Rates))
		}
		return text(p.Rates)
	}
	_, plain := create(t, k, ScopePublish)
	limited, key, err := k.CreateLimited(t.Context(), "orders", []string{ScopePublish}, "", Rates{Messages: number(500)})
	if err != nil {
		t.Fatal(err)
	}
	if got := rates(plain) + rates(key); got != " default default 500 default" {
		t.Errorf("rates%s", got)
	}
	if err := k.SetRates(t.Context(), limited.KeyID, Rates{Bytes: number(0)}); err != nil {
		t.Fatal(err)
	}
	if got := rates(key); got != " default 0" {
		t.Errorf("after a change:%s", got)
	}
	for _, id := range []string{"0123456789abcdef", "x"} {
		if err := k.SetRates(t.Context(), id, Rates{}); !errors.Is(err, ErrNotFound) {
			t.Errorf("SetRates of a key that there is not: %v", err)
		}
	}
	if err := k.SetRates(t.Context(), limited.KeyID, Rates{Messages: number(-1)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("SetRates to -1: %v", err)
	}
	if _, _, err := k.CreateLimited(t.Context(), "a", []string{ScopePublish}, "", Rates{Bytes: number(-1)}); !errors.Is(err, ErrInvalid) {
		t.Errorf("CreateLimited with -1: %v", err)
	}
}

func TestDatabaseGone(t *testing.T) {
	t.Parallel()
	db := testdb.New(t)
	pool, err := pgxpool.New(t.Context(), db.URL)
	if err != nil {
		t.Fatal(err)
	}
	k := New(pool, nil)
	clock := time.Now()
	k.cache.now = func() time.Time { return clock }
	p, key := create(t, k, ScopePublish)
	_, unused := create(t, k, ScopePublish)
	if _, err := k.Authenticate(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	pool.Close()
	for _, age := range []time.Duration{RevokeWithin, RevokeWithin + 100*time.Millisecond, Grace - time.Millisecond} {
		clock = clock.Add(age - clock.Sub(k.cache.known[p.KeyID].checked))
		if _, err := k.Authenticate(t.Context(), key); err != nil {
			t.Errorf("known key after %v: %v", age, err)
		}
	}
	if got := testutil.ToFloat64(k.metrics.checks.WithLabelValues("stale")); got != 3 {
		t.Errorf("%v checks counted as stale, want 3", got)
	}
	clock = clock.Add(time.Millisecond)
	for range 2 { // by looking, and within a second of that without
		if _, err := k.Authenticate(t.Context(), key); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRejected) {
			t.Errorf("known key after Grace: %v, want %v", err, ErrUnavailable)
		}
	}
	for name, err := range map[string]error{
		"Authenticate": second(k.Authenticate(t.Context(), unused)),
		"Revoke":       k.Revoke(t.Context(), p.KeyID),
		"List":         second(k.List(t.Context())),
	} {
		if !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v, want %v", name, err, ErrUnavailable)
		}
	}
	if _, _, err := k.Create(t.Context(), "a", []string{ScopeRead}, ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Create: %v, want %v", err, ErrUnavailable)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Authenticate(ctx, unused); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrUnavailable) {
		t.Errorf("cancelled: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func FuzzSplitKey(f *testing.F) {
	f.Add("")
	f.Add("rk_0123456789abcdef_" + strings.Repeat("0", 64))
	f.Add("rk__" + strings.Repeat("_", 80))
	f.Fuzz(func(t *testing.T, key string) {
		if id, secret, ok := splitKey(key); ok && keyText(id, secret) != key {
			t.Errorf("%q was read as %q and %q", key, id, secret)
		}
	})
}
