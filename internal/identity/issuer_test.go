package identity

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func TestUnknownKidFlood(t *testing.T) {
	t.Parallel()
	good, invented := ecKey(t, "good"), ecKey(t, "invented")
	i := newIssuer(t, good.public())
	v := verifier(t, i, nil)
	clock := time.Now()
	v.now = func() time.Time { return clock }
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for n := range 25 {
				k := invented
				k.id += strings.Repeat("x", n)
				if _, err := v.User(t.Context(), k.sign(t, i.idToken(nil))); ReasonOf(err) != ReasonKey && !errors.Is(err, ErrUnavailable) {
					t.Errorf("invented key id: %v, want key, or unavailable while the issuer is not asked", err)
				}
			}
		})
	}
	wg.Wait()
	if n := i.fetches.Load(); n > 1+quickFetches {
		t.Errorf("200 invented key ids made %d fetches, want %d at most", n, 1+quickFetches)
	}
	// A known key id with another key's signature is no cheaper way to do it.
	forged := key{good.id, good.alg, invented.private}.sign(t, i.idToken(nil))
	for range 20 {
		if _, err := v.User(t.Context(), forged); ReasonOf(err) != ReasonSignature {
			t.Errorf("forged: %v, want signature", err)
		}
	}
	clock = clock.Add(defaultRefetchInterval)
	for range 20 {
		_, _ = v.User(t.Context(), forged)
	}
	if n := i.fetches.Load(); n > 2*(1+quickFetches) {
		t.Errorf("%d fetches after one interval, want %d at most", n, 2*(1+quickFetches))
	}
	if _, err := v.User(t.Context(), good.sign(t, i.idToken(nil))); err != nil {
		t.Errorf("a good token after the flood: %v", err)
	}
}

func TestKeyRotation(t *testing.T) {
	t.Parallel()
	first, second := rsaKey(t, "first"), rsaKey(t, "second")
	i := newIssuer(t, first.public())
	v := verifier(t, i, nil)
	clock := time.Now()
	v.now = func() time.Time { return clock }
	if _, err := v.User(t.Context(), first.sign(t, i.idToken(nil))); err != nil {
		t.Fatal(err)
	}
	i.publish(second.public())
	clock = clock.Add(time.Second)
	if _, err := v.User(t.Context(), second.sign(t, i.idToken(nil))); err != nil {
		t.Errorf("the first token of a new key: %v", err)
	}
	clock = clock.Add(defaultRefetchInterval)
	for range quickFetches + 1 { // somebody invents keys
		clock = clock.Add(time.Millisecond)
		_, _ = v.User(t.Context(), rsaKey(t, "invented").sign(t, i.idToken(nil)))
	}
	// Nobody knows yet whether this token is good: not 401, which makes a user sign in
	// again, but "ask later".
	clock = clock.Add(time.Millisecond)
	i.publish(first.public(), second.public())
	if _, err := v.User(t.Context(), first.sign(t, i.idToken(nil))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("after many unknown keys: %v, want unavailable", err)
	}
	i.publish(second.public())
	clock = clock.Add(defaultRefetchInterval)
	if _, err := v.User(t.Context(), second.sign(t, i.idToken(nil))); err != nil {
		t.Errorf("after the interval: %v", err)
	}
	clock = clock.Add(defaultRefetchInterval)
	if _, err := v.User(t.Context(), first.sign(t, i.idToken(nil))); ReasonOf(err) != ReasonKey {
		t.Errorf("a token of the withdrawn key: %v, want key", err)
	}
	// The same key id, another key: a development issuer that was started anew.
	third := rsaKey(t, "second")
	i.publish(third.public())
	clock = clock.Add(defaultRefetchInterval)
	if _, err := v.User(t.Context(), third.sign(t, i.idToken(nil))); err != nil {
		t.Errorf("new key by an old name: %v", err)
	}
}

func TestWithdrawnKeyEndsWithinAnHour(t *testing.T) {
	t.Parallel()
	leaked, next := ecKey(t, "leaked"), ecKey(t, "next")
	i := newIssuer(t, leaked.public(), next.public())
	v := verifier(t, i, nil)
	clock := time.Now()
	v.now = func() time.Time { return clock }
	token := leaked.sign(t, i.idToken(map[string]any{"exp": clock.Add(48 * time.Hour).Unix()}))
	if _, err := v.User(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	i.publish(next.public())
	clock = clock.Add(maxAge)
	if _, err := v.User(t.Context(), token); ReasonOf(err) != ReasonKey {
		t.Errorf("withdrawn key after %v: %v, want key", maxAge, err)
	}
}

func TestIssuerDownAndUpAgain(t *testing.T) {
	t.Parallel()
	k := ecKey(t, "k")
	i := newIssuer(t, k.public())
	i.down.Store(true)
	v := verifier(t, i, nil)
	clock := time.Now()
	v.now = func() time.Time { return clock }
	token := k.sign(t, i.idToken(map[string]any{"exp": clock.Add(48 * time.Hour).Unix()}))
	for range 10 {
		_, err := v.User(t.Context(), token)
		if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "502") {
			t.Fatalf("issuer down: %v, want %v with its cause", err, ErrUnavailable)
		}
		if strings.Contains(err.Error(), "repair") {
			t.Errorf("the issuer's answer is in the error: %v", err)
		}
	}
	i.down.Store(false)
	clock = clock.Add(firstBackoff)
	if _, err := v.User(t.Context(), token); err != nil {
		t.Fatalf("issuer up: %v", err)
	}
	if n := i.fetches.Load(); n != 1 {
		t.Errorf("%d fetches, want 1", n)
	}

	// Down again: known keys go on working, unknown ones cannot be judged.
	i.down.Store(true)
	clock = clock.Add(maxAge)
	if _, err := v.User(t.Context(), token); err != nil {
		t.Errorf("issuer down, known key: %v", err)
	}
	if _, err := v.User(t.Context(), ecKey(t, "new").sign(t, i.idToken(map[string]any{"exp": clock.Add(time.Hour).Unix()}))); !errors.Is(err, ErrUnavailable) {
		t.Errorf("issuer down, unknown key: %v, want %v", err, ErrUnavailable)
	}
	clock = clock.Add(maxStale - maxAge)
	if _, err := v.User(t.Context(), token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("issuer down for a day: %v, want %v", err, ErrUnavailable)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	i := &issuer{interval: defaultRefetchInterval}
	var got []time.Duration
	for i.failures = range 8 {
		got = append(got, i.backoff())
	}
	if got[0] != time.Second || got[1] != 2*time.Second || got[7] != maxFirstBackoff {
		t.Errorf("before the first success: %v", got)
	}
	i.known.keys = []jose.JSONWebKey{{}}
	if i.failures = 1000; i.backoff() != defaultRefetchInterval {
		t.Errorf("after a success, 1000 failures: %v", i.backoff())
	}
}

// roundTrip is an issuer in memory, for tests with a fake clock.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRenewalHoldsUpOneCallerOnly(t *testing.T) {
	t.Parallel()
	k := ecKey(t, "k")
	server := newIssuer(t, k.public())
	synctest.Test(t, func(t *testing.T) {
		token := k.sign(t, server.idToken(map[string]any{"exp": time.Now().Add(48 * time.Hour).Unix()}))
		hang := false
		v := verifier(t, server, func(c *Config) {
			c.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
				if hang {
					<-r.Context().Done()
					return nil, r.Context().Err()
				}
				w := httptest.NewRecorder()
				server.Config.Handler.ServeHTTP(w, r)
				return w.Result(), nil
			})
		})
		if _, err := v.User(t.Context(), token); err != nil {
			t.Fatal(err)
		}
		hang = true
		time.Sleep(maxAge) // fake time
		start := time.Now()
		var waited atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := v.User(t.Context(), token); err != nil {
					t.Error(err)
				}
				if d := time.Since(start); d > 0 {
					waited.Add(1)
					if d > defaultTimeout {
						t.Errorf("waited %v", d)
					}
				}
			})
		}
		wg.Wait()
		if n := waited.Load(); n != 1 {
			t.Errorf("%d callers waited for an issuer that hangs, want 1", n)
		}
	})
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	k := ecKey(t, "k")
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		discovery, keys string // ISSUER stands for the issuer's URL
		want            string
	}{
		"other issuer":    {`{"issuer":"https://example.com","jwks_uri":"ISSUER/keys"}`, ``, "calls itself"},
		"slash too many":  {`{"issuer":"ISSUER/","jwks_uri":"ISSUER/keys"}`, ``, "to the last slash"},
		"no JSON":         {`<html>`, ``, "not the JSON"},
		"endless":         {`{"issuer":"` + strings.Repeat("x", maxDocument) + `"}`, ``, "longer than"},
		"no keys URL":     {`{"issuer":"ISSUER"}`, ``, "keys: "},
		"keys on a file":  {`{"issuer":"ISSUER","jwks_uri":"file:///etc/passwd"}`, ``, "unsupported protocol"},
		"keys no JSON":    {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, `<html>`, "not the JSON"},
		"keys endless":    {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, `{"keys":[` + strings.Repeat(" ", maxDocument), "longer than"},
		"no keys":         {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, `{"keys":[]}`, "none of the issuer's 0 keys"},
		"too many keys":   {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, `{"keys":[{}` + strings.Repeat(",{}", maxKeys) + `]}`, "65 keys"},
		"symmetric key":   {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, `{"keys":[{"kty":"oct","k":"AAAA"}]}`, "none of"},
		"private key":     {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, keySetText(t, jose.JSONWebKey{Key: k.private}), "none of"},
		"key to encrypt":  {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, keySetText(t, jose.JSONWebKey{Key: k.private.Public(), Use: "enc"}), "none of"},
		"weak key":        {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, keySetText(t, jose.JSONWebKey{Key: weak.Public()}), "none of"},
		"only new things": {`{"issuer":"ISSUER","jwks_uri":"ISSUER/keys"}`, `{"keys":[{"kty":"PQC"},7]}`, "none of"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mux := http.NewServeMux()
			server := httptest.NewServer(mux)
			defer server.Close()
			mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
				w.Write([]byte(strings.ReplaceAll(c.discovery, "ISSUER", server.URL)))
			})
			mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(c.keys)) })
			v := New(Config{Issuer: server.URL, Audiences: []string{"a"}}, nil)
			_, err := v.User(t.Context(), k.sign(t, map[string]any{"sub": "x"}))
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %v with %q", err, ErrUnavailable, c.want)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the error has %d bytes", len(err.Error()))
			}
		})
	}
}

func keySetText(t *testing.T, keys ...jose.JSONWebKey) string {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestFetchIsBoundedInTime(t *testing.T) {
	t.Parallel()
	k := ecKey(t, "k")
	synctest.Test(t, func(t *testing.T) {
		v := New(Config{Issuer: "https://example.com", Audiences: []string{"a"},
			Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, r.Context().Err()
			})}, nil)
		start := time.Now()
		_, err := v.User(t.Context(), k.sign(t, map[string]any{"sub": "x"}))
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want %v by timeout", err, ErrUnavailable)
		}
		if d := time.Since(start); d != defaultTimeout {
			t.Errorf("took %v, want %v", d, defaultTimeout)
		}
	})
}

func TestRedirectToHTTPIsRefused(t *testing.T) {
	t.Parallel()
	client := newClient(Config{}.withDefaults())
	secure, _ := http.NewRequest(http.MethodGet, "https://example.com/", nil)
	plain, _ := http.NewRequest(http.MethodGet, "http://example.com/", nil)
	if err := client.CheckRedirect(plain, []*http.Request{secure}); err == nil {
		t.Error("from https to http: no error")
	}
	if err := client.CheckRedirect(plain, []*http.Request{plain, plain, plain, plain}); err == nil {
		t.Error("four redirects: no error")
	}
	if err := client.CheckRedirect(secure, []*http.Request{secure}); err != nil {
		t.Error(err)
	}
}
