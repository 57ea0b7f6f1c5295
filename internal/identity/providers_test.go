package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The algorithms are the issuer's to choose: a pinned list refused tokens of issuers
// that sign with PS256, RS512 or ES384.
func TestAlgorithmsAreThoseTheIssuerAnnounces(t *testing.T) {
	t.Parallel()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private := rsaKey(t, "").private
	keys := []key{{"ps256", jose.PS256, private}, {"rs512", jose.RS512, private}, {"es384", jose.ES384, p384}, edKey(t, "ed")}
	var public []any
	for _, k := range keys {
		public = append(public, k.public())
	}
	check := func(name string, announced, narrowed, want []string) {
		i := newIssuer(t, public...)
		i.algorithms = announced
		v := verifier(t, i, func(c *Config) { c.Algorithms = narrowed })
		for _, k := range keys {
			_, err := v.User(t.Context(), k.sign(t, i.idToken(nil)))
			switch accepted := slices.Contains(want, string(k.alg)); {
			case accepted && err != nil:
				t.Errorf("%s: %s: %v", name, k.alg, err)
			case !accepted && (ReasonOf(err) != ReasonAlgorithm || AlgorithmOf(err) != string(k.alg)):
				t.Errorf("%s: %s: %v, want it refused by its name", name, k.alg, err)
			}
		}
	}
	check("all", []string{"PS256", "RS512", "ES384", "EdDSA"}, nil, []string{"PS256", "RS512", "ES384", "EdDSA"})
	check("the issuer does not say", nil, nil, []string{"PS256", "RS512", "ES384", "EdDSA"})
	check("one announced", []string{"ES384"}, nil, []string{"ES384"})
	check("narrowed", []string{"PS256", "RS512", "ES384"}, []string{"PS256", "EdDSA"}, []string{"PS256"})
}

// The header is anybody's text, and must not get into logs and answers.
func TestUnknownAlgorithmIsNotRepeated(t *testing.T) {
	t.Parallel()
	v := verifier(t, newIssuer(t, rsaKey(t, "k").public()), nil)
	_, err := v.User(t.Context(), "eyJhbGciOiI8c2NyaXB0PiJ9.e30.AA") // alg: <script>
	if ReasonOf(err) != ReasonAlgorithm || AlgorithmOf(err) != "" || strings.Contains(err.Error(), "script") {
		t.Errorf("%v", err)
	}
}

// ID tokens in the shapes of real providers.
func TestProvidersIDTokens(t *testing.T) {
	t.Parallel()
	k := rsaKey(t, "k")
	i := newIssuer(t, k.public())
	v := verifier(t, i, nil)
	for provider, claims := range map[string]map[string]any{
		"Keycloak":   {"typ": "ID", "azp": "restante", "sid": "5a", "auth_time": time.Now().Unix(), "at_hash": "xx", "acr": "1"},
		"Auth0":      {"sub": "auth0|5f7c", "nickname": "ann", "sid": "s", "nonce": "n"},
		"Entra":      {"aud": "restante", "oid": "0000", "tid": "1111", "ver": "2.0", "rh": "x", "uti": "y", "roles": []string{"Reader"}},
		"Okta":       {"ver": 1, "amr": []string{"pwd"}, "idp": "00o", "at_hash": "x", "jti": "ID.x"},
		"Cognito":    {"token_use": "id", "cognito:username": "ann", "origin_jti": "x", "event_id": "y"},
		"Google":     {"azp": "restante", "hd": "example.com", "email_verified": true, "at_hash": "x"},
		"Dex":        {"sub": "CgR1c2VyEgVsb2NhbA", "at_hash": "x", "c_hash": "y", "email": "a@example.com"},
		"Kubernetes": {"aud": []string{"restante"}, "sub": "system:serviceaccount:shop:front", "kubernetes.io": map[string]any{"namespace": "shop"}},
	} {
		if _, err := v.User(t.Context(), k.sign(t, i.idToken(claims))); err != nil {
			t.Errorf("%s: %v", provider, err)
		}
	}
}

// Providers write what a back end may do into different claims, or nowhere.
func TestProvidersPublishers(t *testing.T) {
	t.Parallel()
	k := rsaKey(t, "k")
	i := newIssuer(t, k.public())
	for name, c := range map[string]struct {
		claims        map[string]any
		from          []string // -publisher-claim
		subjects      []string // -publisher-subjects
		id            string
		publish, read bool
	}{
		"scope":              {claims: map[string]any{"azp": "shop", "scope": "openid restante:publish"}, id: "shop", publish: true},
		"Okta":               {claims: map[string]any{"cid": "shop", "scp": []string{"restante:publish", "restante:read"}}, id: "shop", publish: true, read: true},
		"Entra roles":        {claims: map[string]any{"appid": "shop", "roles": []string{"restante:publish"}}, from: []string{"roles"}, id: "shop", publish: true},
		"roles, not asked":   {claims: map[string]any{"azp": "shop", "roles": []string{"restante:publish"}}, id: "shop"},
		"scope, not asked":   {claims: map[string]any{"azp": "shop", "scope": "restante:publish"}, from: []string{"roles"}, id: "shop"},
		"Auth0 permissions":  {claims: map[string]any{"azp": "shop", "permissions": []string{"restante:read"}}, from: []string{"permissions"}, id: "shop", read: true},
		"Keycloak roles":     {claims: map[string]any{"azp": "shop", "realm_access": map[string]any{"roles": []string{"restante:publish"}}}, from: []string{"realm_access.roles"}, id: "shop", publish: true},
		"a name with dots":   {claims: map[string]any{"azp": "shop", "https://example.com/roles": []string{"restante:publish"}}, from: []string{"https://example.com/roles"}, id: "shop", publish: true},
		"inside what is not": {claims: map[string]any{"azp": "shop", "realm_access": "roles"}, from: []string{"realm_access.roles"}, id: "shop"},
		"Kubernetes": {claims: map[string]any{"sub": "system:serviceaccount:shop:billing"},
			subjects: []string{"system:serviceaccount:shop:billing"}, id: "system:serviceaccount:shop:billing", publish: true},
		"another subject": {claims: map[string]any{"sub": "system:serviceaccount:shop:other"},
			subjects: []string{"system:serviceaccount:shop:billing"}, id: "system:serviceaccount:shop:other"},
	} {
		v := verifier(t, i, func(cfg *Config) { cfg.PublisherClaims, cfg.PublisherSubjects = c.from, c.subjects })
		c.claims["aud"] = "gateway"
		p, err := v.Publisher(t.Context(), k.sign(t, i.idToken(c.claims)))
		if err != nil || p.ID != c.id || slices.Contains(p.Scopes, "publish") != c.publish || slices.Contains(p.Scopes, "read") != c.read {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	v := verifier(t, i, func(cfg *Config) { cfg.PublisherClaims, cfg.PublisherScope = []string{"roles", "permissions"}, "post" })
	if got := v.Wanted("publish"); got != "post in its claim roles or permissions" {
		t.Error(got)
	}
}

// An issuer may have another name inside the network than in its tokens.
func TestIssuerIsAskedAtAnotherName(t *testing.T) {
	t.Parallel()
	k := rsaKey(t, "k")
	inside := newIssuer(t, k.public())
	outside := "https://id.example.com"
	token := k.sign(t, inside.idToken(map[string]any{"iss": outside}))

	byKeys := verifier(t, inside, func(c *Config) { c.Issuer, c.KeysURL = outside, inside.URL+"/keys" })
	if _, err := byKeys.User(t.Context(), token); err != nil {
		t.Errorf("keys: %v", err)
	}
	if n := inside.discoveries.Load(); n != 0 {
		t.Errorf("%d discoveries", n)
	}
	byDiscovery := verifier(t, inside, func(c *Config) {
		c.Issuer, c.DiscoveryURL = outside, inside.URL+"/.well-known/openid-configuration"
	})
	if _, err := byDiscovery.User(t.Context(), token); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a discovery document of another issuer: %v", err)
	}
	inside.callItself(outside)
	byDiscovery = verifier(t, inside, func(c *Config) {
		c.Issuer, c.DiscoveryURL = outside, inside.URL+"/.well-known/openid-configuration"
	})
	if _, err := byDiscovery.User(t.Context(), token); err != nil {
		t.Errorf("discovery: %v", err)
	}
	if _, err := byDiscovery.User(t.Context(), k.sign(t, inside.idToken(nil))); ReasonOf(err) != ReasonIssuer {
		t.Errorf("a token that names the inner issuer: %v", err)
	}
}
