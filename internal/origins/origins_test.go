package origins_test

import (
	"testing"

	"restante/internal/origins"
)

func TestAllows(t *testing.T) {
	t.Parallel()
	const host = "push.example.com"
	for name, c := range map[string]struct {
		allowed []string
		origin  string
		host    string
		want    bool
	}{
		"exact":                      {[]string{"https://app.example.com"}, "https://app.example.com", host, true},
		"final slash":                {[]string{"https://app.example.com/"}, "https://app.example.com", host, true},
		"default port, configured":   {[]string{"https://app.example.com:443"}, "https://app.example.com", host, true},
		"default port, sent":         {[]string{"http://app.example.com"}, "http://app.example.com:80", host, true},
		"case":                       {[]string{"HTTPS://App.Example.com"}, "https://app.example.com", host, true},
		"other scheme":               {[]string{"https://app.example.com"}, "http://app.example.com", host, false},
		"other port":                 {[]string{"https://app.example.com"}, "https://app.example.com:8443", host, false},
		"longer host":                {[]string{"https://app.example.com"}, "https://app.example.com.evil.example", host, false},
		"shorter host":               {[]string{"https://app.example.com"}, "https://example.com", host, false},
		"nobody":                     {nil, "https://app.example.com", host, false},
		"any":                        {[]string{"*"}, "https://app.example.com", host, true},
		"any, null":                  {[]string{"*"}, "null", host, true},
		"null":                       {[]string{"https://app.example.com"}, "null", host, false},
		"one label":                  {[]string{"https://*.preview.example.com"}, "https://pr-17.preview.example.com", host, true},
		"one label, case":            {[]string{"https://*.Preview.example.com"}, "https://PR-17.preview.example.com", host, true},
		"two labels":                 {[]string{"https://*.preview.example.com"}, "https://a.b.preview.example.com", host, false},
		"no label":                   {[]string{"https://*.preview.example.com"}, "https://preview.example.com", host, false},
		"empty label":                {[]string{"https://*.preview.example.com"}, "https://.preview.example.com", host, false},
		"label, other scheme":        {[]string{"https://*.preview.example.com"}, "http://a.preview.example.com", host, false},
		"label with a user":          {[]string{"https://*.preview.example.com"}, "https://evil.example@a.preview.example.com", host, false},
		"label, port":                {[]string{"https://*.preview.example.com:8443"}, "https://a.preview.example.com:8443", host, true},
		"label, port missing":        {[]string{"https://*.preview.example.com:8443"}, "https://a.preview.example.com", host, false},
		"the wildcard itself":        {[]string{"https://*.preview.example.com"}, "https://*.preview.example.com", host, false},
		"own host":                   {nil, "http://127.0.0.1:8080", "127.0.0.1:8080", true},
		"own host, TLS in front":     {nil, "https://push.example.com", host, true},
		"own host, its port written": {nil, "https://push.example.com", "push.example.com:443", true},
		"own host, other port":       {nil, "http://127.0.0.1:8082", "127.0.0.1:8080", false},
		"own host, IPv6":             {nil, "http://[::1]:8080", "[::1]:8080", true},
		"own host, IPv6, port 80":    {nil, "http://[::1]", "[::1]:80", true},
		"no host":                    {nil, "https://", "", false},
		"garbage":                    {nil, "://", "", false},
		"an app's scheme":            {[]string{"capacitor://localhost"}, "capacitor://localhost", host, true},
	} {
		set, err := origins.Parse(c.allowed)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := set.Allows(c.origin, c.host); got != c.want {
			t.Errorf("%s: %q at %q: %v", name, c.origin, c.host, got)
		}
	}
}

// What no browser sends would silently allow nothing.
func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"", "null", "app.example.com", "https://", "https:///", "https://a b.example", "https://app.example.com/path", "https://app.example.com//",
		"https://app.example.com?x", "https://app.example.com#x", "https://app.example.com#", "https://user@app.example.com",
		"https://app.example.com:", "https://app.example.com:x", "https://bücher.example", "//app.example.com", "javascript:alert(1)",
		"https://*", "https://*.com", "https://*.*.example.com", "https://a.*.example.com", "https://pre*.example.com", "*.example.com", "**", "https://%2a.example.com",
	} {
		if _, err := origins.Parse([]string{text}); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func FuzzAllows(f *testing.F) {
	set, err := origins.Parse([]string{"https://app.example.com", "https://*.preview.example.com"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("https://app.example.com", "push.example.com")
	f.Add("https://a.preview.example.com.", "push.example.com")
	f.Fuzz(func(_ *testing.T, origin, host string) { set.Allows(origin, host) })
}
