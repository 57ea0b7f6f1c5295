package identity

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestUser(t *testing.T) {
	t.Parallel()
	keys := []key{rsaKey(t, "r"), ecKey(t, "e"), edKey(t, "d")}
	i := newIssuer(t, map[string]any{"kty": "PQC", "kid": "q"}, keys[0].public(), keys[1].public(), keys[2].public())
	v := verifier(t, i, nil)
	for _, k := range keys {
		u, err := v.User(t.Context(), k.sign(t, i.idToken(nil)))
		if err != nil || u != (User{"user-1", "ann"}) {
			t.Errorf("%s: User = %+v, %v", k.alg, u, err)
		}
	}
	k := keys[1]
	for name, c := range map[string]struct {
		changes map[string]any
		want    User
	}{
		"second audience":     {map[string]any{"aud": "page"}, User{"user-1", "ann"}},
		"audience in a list":  {map[string]any{"aud": []string{"x", "restante"}}, User{"user-1", "ann"}},
		"expired in leeway":   {map[string]any{"exp": time.Now().Add(-2 * time.Second).Unix()}, User{"user-1", "ann"}},
		"Cognito":             {map[string]any{"token_use": "id", "preferred_username": nil, "cognito:username": "cog"}, User{"user-1", "cog"}},
		"preferred to Cognit": {map[string]any{"token_use": "id", "cognito:username": "cog"}, User{"user-1", "ann"}},
		"name":                {map[string]any{"preferred_username": nil, "name": "Ann Lee", "email": "a@example.com"}, User{"user-1", "Ann Lee"}},
		"email":               {map[string]any{"preferred_username": nil, "email": "a@example.com"}, User{"user-1", "a@example.com"}},
		"nothing but sub":     {map[string]any{"preferred_username": nil}, User{"user-1", "user-1"}},
		"name is no text":     {map[string]any{"preferred_username": "a\x1b[2J", "name": 7, "email": "a@example.com"}, User{"user-1", "a@example.com"}},
		"unknown claims":      {map[string]any{"groups": []string{"a"}, "address": map[string]any{"x": nil}}, User{"user-1", "ann"}},
	} {
		u, err := v.User(t.Context(), k.sign(t, i.idToken(c.changes)))
		if err != nil || u != c.want {
			t.Errorf("%s: User = %+v, %v, want %+v", name, u, err, c.want)
		}
	}
	if u, err := v.User(t.Context(), key{"", k.alg, k.private}.sign(t, i.idToken(nil))); err != nil || u.ID != "user-1" {
		t.Errorf("without a key id: %+v, %v", u, err)
	}
	if n := i.fetches.Load(); n != 1 {
		t.Errorf("%d fetches for all that, want 1", n)
	}
}

func TestUserRejects(t *testing.T) {
	t.Parallel()
	k := rsaKey(t, "k")
	ed := edKey(t, "d")
	i := newIssuer(t, k.public(), ed.public())
	i.algorithms = []string{"none", "HS256", "RS256", "ES256", "EdDSA"}
	v := verifier(t, i, nil)
	clock := time.Now() // stands still: what was fetched is never old
	v.now = func() time.Time { return clock }
	good := k.sign(t, i.idToken(nil))
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString

	// The oldest trick: HMAC with the published key as its secret.
	der, err := x509.MarshalPKIXPublicKey(k.private.Public())
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{
		Key: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), KeyID: k.id}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	hmac, err := jwt.Signed(signer).Claims(i.idToken(nil)).Serialize()
	if err != nil {
		t.Fatal(err)
	}

	signed := func(changes map[string]any) string { return k.sign(t, i.idToken(changes)) }
	for name, c := range map[string]struct {
		token string
		want  Reason
	}{
		"empty":                  {"", ReasonMalformed},
		"no token":               {"not a token", ReasonMalformed},
		"only dots":              {"..", ReasonMalformed},
		"four parts":             {good + ".e30", ReasonMalformed},
		"JSON form":              {`{"payload":"e30","protected":"e30","signature":"AA"}`, ReasonMalformed},
		"header no JSON":         {"AAAA." + parts[1] + "." + parts[2], ReasonMalformed},
		"payload no base64":      {parts[0] + ".!!." + parts[2], ReasonMalformed},
		"huge":                   {signed(map[string]any{"groups": strings.Repeat("x", maxTokenBytes)}), ReasonOversized},
		"alg none":               {b64([]byte(`{"alg":"none","kid":"k"}`)) + "." + parts[1] + ".", ReasonAlgorithm},
		"no alg":                 {b64([]byte(`{"kid":"k"}`)) + "." + parts[1] + "." + parts[2], ReasonAlgorithm},
		"HS256 with the key":     {hmac, ReasonAlgorithm},
		"RS512, not announced":   {key{"k", jose.RS512, k.private}.sign(t, i.idToken(nil)), ReasonAlgorithm},
		"other kind of key":      {key{"d", jose.RS256, k.private}.sign(t, i.idToken(nil)), ReasonKey},
		"unknown key":            {ecKey(t, "other").sign(t, i.idToken(nil)), ReasonKey},
		"forged":                 {rsaKey(t, "k").sign(t, i.idToken(nil)), ReasonSignature},
		"no signature":           {parts[0] + "." + parts[1] + ".", ReasonSignature},
		"other payload":          {parts[0] + "." + b64([]byte(`{"sub":"eve"}`)) + "." + parts[2], ReasonSignature},
		"critical header":        {b64([]byte(`{"alg":"RS256","kid":"k","crit":["x"],"x":1}`)) + "." + parts[1] + "." + parts[2], ReasonSignature},
		"wrong issuer":           {signed(map[string]any{"iss": "https://example.com"}), ReasonIssuer},
		"issuer with slash":      {signed(map[string]any{"iss": i.URL + "/"}), ReasonIssuer},
		"no issuer":              {signed(map[string]any{"iss": nil}), ReasonIssuer},
		"expired":                {signed(map[string]any{"exp": time.Now().Add(-leeway - 2*time.Second).Unix()}), ReasonExpired},
		"no exp":                 {signed(map[string]any{"exp": nil}), ReasonNoExpiry},
		"not yet":                {signed(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), ReasonNotYet},
		"wrong audience":         {signed(map[string]any{"aud": []string{"a", "b"}}), ReasonAudience},
		"no audience":            {signed(map[string]any{"aud": nil}), ReasonAudience},
		"audience is a part":     {signed(map[string]any{"aud": "restante2"}), ReasonAudience},
		"Cognito access token":   {signed(map[string]any{"token_use": "access"}), ReasonTokenUse},
		"RFC 9068":               {k.signAs(t, "at+jwt", i.idToken(nil)), ReasonTokenUse},
		"RFC 9068, long":         {k.signAs(t, "application/AT+JWT", i.idToken(nil)), ReasonTokenUse},
		"Keycloak access token":  {signed(map[string]any{"typ": "Bearer", "azp": "restante"}), ReasonTokenUse},
		"Keycloak refresh token": {signed(map[string]any{"typ": "Refresh"}), ReasonTokenUse},
		"Auth0 access token":     {signed(map[string]any{"scope": "openid profile", "azp": "restante"}), ReasonTokenUse},
		"Entra access token":     {signed(map[string]any{"scp": "User.Read", "appid": "restante"}), ReasonTokenUse},
		"Okta access token":      {signed(map[string]any{"scp": []string{"openid"}, "cid": "restante"}), ReasonTokenUse},
		"logout token":           {signed(map[string]any{"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}), ReasonTokenUse},
		"no sub":                 {signed(map[string]any{"sub": nil}), ReasonUserID},
		"sub is a number":        {signed(map[string]any{"sub": 7}), ReasonMalformed},
		"empty sub":              {signed(map[string]any{"sub": ""}), ReasonUserID},
		"long sub":               {signed(map[string]any{"sub": strings.Repeat("x", 257)}), ReasonUserID},
		"sub with NUL":           {signed(map[string]any{"sub": "a\x00"}), ReasonUserID},
	} {
		_, err := v.User(t.Context(), c.token)
		if !errors.Is(err, ErrRejected) || errors.Is(err, ErrUnavailable) || ReasonOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		for _, part := range strings.Split(c.token, ".") {
			if len(part) > 20 && strings.Contains(err.Error(), part[:20]) {
				t.Errorf("%s: the error shows the token: %v", name, err)
			}
		}
	}
	if n := i.fetches.Load(); n != 1 {
		t.Errorf("%d fetches for all that, want 1", n)
	}
}

func TestUserClaim(t *testing.T) {
	t.Parallel()
	k := ecKey(t, "k")
	i := newIssuer(t, k.public())
	v := verifier(t, i, func(c *Config) { c.UserClaim = "email" })
	for name, c := range map[string]struct {
		changes map[string]any
		want    Reason
	}{
		"verified":          {map[string]any{"email": "a@example.com", "email_verified": true}, ""},
		"verified, as text": {map[string]any{"email": "a@example.com", "email_verified": "true"}, ""},
		"not verified":      {map[string]any{"email": "a@example.com", "email_verified": false}, ReasonUnverified},
		"verified unknown":  {map[string]any{"email": "a@example.com"}, ReasonUnverified},
		"no email":          {nil, ReasonUserID},
		"a list":            {map[string]any{"email": []string{"a@example.com"}, "email_verified": true}, ReasonUserID},
	} {
		u, err := v.User(t.Context(), k.sign(t, i.idToken(c.changes)))
		if ReasonOf(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err == nil && u.ID != "a@example.com" {
			t.Errorf("%s: User = %+v", name, u)
		}
	}
}

func TestPublisher(t *testing.T) {
	t.Parallel()
	k := ecKey(t, "k")
	i := newIssuer(t, k.public())
	v := verifier(t, i, nil)
	token := func(changes map[string]any) string {
		all := map[string]any{"aud": "gateway", "azp": "billing", "preferred_username": nil, "scope": "openid restante:publish"}
		for name, value := range changes {
			all[name] = value
		}
		return k.signAs(t, "at+jwt", i.idToken(all))
	}
	both := []string{"publish", "read"}
	for name, c := range map[string]struct {
		changes map[string]any
		id      string
		scopes  []string
	}{
		"scope":           {nil, "billing", both[:1]},
		"scp list":        {map[string]any{"scope": nil, "scp": []string{"restante:read", "restante:publish"}}, "billing", both},
		"scp text":        {map[string]any{"scope": nil, "scp": "restante:read"}, "billing", both[1:]},
		"client_id":       {map[string]any{"azp": nil, "client_id": "app"}, "app", both[:1]},
		"sub":             {map[string]any{"azp": nil}, "user-1", both[:1]},
		"other scopes":    {map[string]any{"scope": "restante:publishing publish"}, "billing", nil},
		"no scope":        {map[string]any{"scope": nil}, "billing", nil},
		"Cognito, no aud": {map[string]any{"aud": nil, "azp": nil, "client_id": "gateway", "token_use": "access"}, "gateway", both[:1]},
	} {
		p, err := v.Publisher(t.Context(), token(c.changes))
		if err != nil || p.ID != c.id || !slices.Equal(p.Scopes, c.scopes) {
			t.Errorf("%s: Publisher = %+v, %v, want %s %v", name, p, err, c.id, c.scopes)
		}
	}
	for name, c := range map[string]struct {
		token string
		want  Reason
	}{
		"ID token":              {k.sign(t, i.idToken(map[string]any{"token_use": "id", "aud": "gateway"})), ReasonTokenUse},
		"for users":             {token(map[string]any{"aud": "restante"}), ReasonAudience},
		"client_id beside aud":  {token(map[string]any{"aud": "restante", "client_id": "gateway"}), ReasonAudience},
		"neither":               {token(map[string]any{"aud": nil}), ReasonAudience},
		"expired":               {token(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()}), ReasonExpired},
		"logout token":          {k.signAs(t, "logout+jwt", i.idToken(map[string]any{"aud": "gateway"})), ReasonTokenUse},
		"name with a newline":   {token(map[string]any{"azp": "a\nb"}), ReasonPublisherID},
		"nobody":                {token(map[string]any{"azp": nil, "sub": nil}), ReasonPublisherID},
		"forged":                {ecKey(t, "k").sign(t, i.idToken(map[string]any{"aud": "gateway"})), ReasonSignature},
		"an API key by mistake": {"rk_0123456789abcdef_00", ReasonMalformed},
	} {
		if _, err := v.Publisher(t.Context(), c.token); ReasonOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	// A publisher's token is no user's, and the other way round.
	if _, err := v.User(t.Context(), token(nil)); ReasonOf(err) != ReasonTokenUse {
		t.Errorf("access token as ID token: %v, want token_use", err)
	}

	off := verifier(t, i, func(c *Config) { c.PublisherAudiences = nil })
	if _, err := off.Publisher(t.Context(), token(nil)); ReasonOf(err) != ReasonDisabled {
		t.Errorf("without audiences: %v, want disabled", err)
	}
	other := newIssuer(t, k.public())
	two := verifier(t, i, func(c *Config) { c.PublisherIssuer = other.URL })
	if _, err := two.Publisher(t.Context(), token(nil)); ReasonOf(err) != ReasonIssuer {
		t.Errorf("token of the users' issuer: %v, want issuer", err)
	}
	if _, err := two.Publisher(t.Context(), token(map[string]any{"iss": other.URL})); err != nil {
		t.Errorf("token of the publishers' issuer: %v", err)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := Config{Issuer: "https://example.com/realm", Audiences: []string{"a"}, Algorithms: []string{"ES256"}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"no issuer":       func(c *Config) { c.Issuer = "" },
		"no URL":          func(c *Config) { c.Issuer = "example.com" },
		"file":            func(c *Config) { c.Issuer = "file:///etc/issuer" },
		"query":           func(c *Config) { c.Issuer += "?a=b" },
		"password":        func(c *Config) { c.Issuer = "https://a:b@example.com" },
		"other issuer":    func(c *Config) { c.PublisherIssuer = "x" },
		"no audience":     func(c *Config) { c.Audiences = nil },
		"empty audience":  func(c *Config) { c.Audiences = []string{""} },
		"empty audience2": func(c *Config) { c.PublisherAudiences = []string{""} },
		"HMAC":            func(c *Config) { c.Algorithms = []string{"RS256", "HS256"} },
		"none":            func(c *Config) { c.Algorithms = []string{"none"} },
	} {
		bad := good
		change(&bad)
		if bad.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
		// Used all the same, it lets nobody in.
		if _, err := New(bad, nil).User(t.Context(), "e30.e30."); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%s: %v, want %v", name, err, ErrUnavailable)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	k := ecKey(t, "k")
	i := newIssuer(t, k.public())
	reg := prometheus.NewPedanticRegistry()
	v := New(Config{Issuer: i.URL, Audiences: []string{"restante"}}, reg)
	i.down.Store(true)
	_, _ = v.User(t.Context(), k.sign(t, i.idToken(nil)))
	i.down.Store(false)
	v.now = func() time.Time { return time.Now().Add(2 * firstBackoff) }
	_, _ = v.User(t.Context(), k.sign(t, i.idToken(nil)))
	_, _ = v.User(t.Context(), "")
	_, _ = v.Publisher(t.Context(), "")
	for labels, want := range map[[2]string]float64{
		{"user", "ok"}: 1, {"user", "unavailable"}: 1, {"user", "malformed"}: 1, {"publisher", "disabled"}: 1, {"publisher", "ok"}: 0,
	} {
		if got := testutil.ToFloat64(v.metrics.checks.WithLabelValues(labels[0], labels[1])); got != want {
			t.Errorf("checks%v = %v, want %v", labels, got, want)
		}
	}
	for result, want := range map[string]float64{"ok": 1, "error": 1} {
		if got := testutil.ToFloat64(v.metrics.fetches.WithLabelValues(result)); got != want {
			t.Errorf("fetches{%s} = %v, want %v", result, got, want)
		}
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}

// Whatever is presented, User neither panics nor accepts it.
func FuzzUser(f *testing.F) {
	k := ecKey(f, "k")
	i := newIssuer(f, k.public())
	v := verifier(f, i, nil)
	good := k.sign(f, i.idToken(nil))
	f.Add("")
	f.Add("..")
	f.Add(good[:len(good)-2])
	f.Add(strings.ToUpper(good))
	f.Add("e30.e30.")
	f.Add(ecKey(f, "k").sign(f, i.idToken(nil)))
	f.Add(key{"x", jose.RS256, rsaKey(f, "x").private}.sign(f, i.idToken(nil)))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + ".e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := v.User(t.Context(), token); !errors.Is(err, ErrRejected) && !errors.Is(err, ErrUnavailable) {
			t.Errorf("User(%q) = %v, want a rejection", token, err)
		}
	})
}

func BenchmarkUser(b *testing.B) {
	for name, k := range map[string]key{"RS256": rsaKey(b, "k"), "ES256": ecKey(b, "k"), "EdDSA": edKey(b, "k")} {
		b.Run(name, func(b *testing.B) {
			i := newIssuer(b, k.public())
			v := verifier(b, i, nil)
			token := k.sign(b, i.idToken(nil))
			for b.Loop() {
				if _, err := v.User(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
