package tokens

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func newKey(t testing.TB) Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestParseKeys(t *testing.T) {
	t.Parallel()
	good := `"k":"` + strings.Repeat("A", 42) + `E"` // 32 bytes, the last one 1
	keys, err := ParseKeys([]byte(`{"keys":[{"kty":"oct","kid":"a","alg":"dir","use":"enc",` + good + `},{"kty":"oct","kid":"b",` + good + `}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 2 || keys[0].ID != "a" || keys[1].ID != "b" || keys[0].secret[31] != 1 {
		t.Errorf("ParseKeys = %v", keys)
	}

	secret := strings.Repeat("c2VjcmV0", 5)
	for name, c := range map[string]struct{ text, want string }{
		"empty":       {``, "JSON object"},
		"no JSON":     {secret, "JSON object"},
		"array":       {`[]`, "JSON object"},
		"no keys":     {`{"keys":[]}`, "no keys"},
		"wrong type":  {`{"keys":[{"kty":"RSA","kid":"a",` + good + `}]}`, `kty is "RSA"`},
		"wrong alg":   {`{"keys":[{"kty":"oct","kid":"a","alg":"A256KW",` + good + `}]}`, `alg is "A256KW"`},
		"wrong use":   {`{"keys":[{"kty":"oct","kid":"a","use":"sig",` + good + `}]}`, `use is "sig"`},
		"short key":   {`{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}`, "3 bytes"},
		"padded":      {`{"keys":[{"kty":"oct","kid":"a","k":"AAA="}]}`, "base64url"},
		"zeros":       {`{"keys":[{"kty":"oct","kid":"a","k":"` + strings.Repeat("A", 43) + `"}]}`, "all zeros"},
		"no kid":      {`{"keys":[{"kty":"oct",` + good + `}]}`, "kid must be"},
		"strange kid": {`{"keys":[{"kty":"oct","kid":"a\nb",` + good + `}]}`, "kid must be"},
		"twice":       {`{"keys":[{"kty":"oct","kid":"a",` + good + `},{"kty":"oct","kid":"a",` + good + `}]}`, "twice"},
		"one bad":     {`{"keys":[{"kty":"oct","kid":"a",` + good + `},{"kty":"oct","kid":"b","k":"` + secret + `"}]}`, `key 2 (kid "b")`},
		"too many":    {`{"keys":[` + strings.Repeat(`{"kty":"oct"},`, 32) + `{"kty":"oct"}]}`, "33 keys"},
	} {
		_, err := ParseKeys([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

func TestKeyIsNotPrinted(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "key", k, "keys", []Key{k})
	fmt.Fprintf(&out, "%v %+v %#v %s %v", k, k, k, k, []Key{k})
	bare := fmt.Sprint(k.secret[:8])
	if s := out.String(); strings.Contains(s, bare[1:len(bare)-1]) || strings.Contains(s, fmt.Sprintf("%x", k.secret[:8])) {
		t.Errorf("the secret is in %q", s)
	}
	if !strings.Contains(out.String(), k.ID) {
		t.Errorf("the ID is not in %q", out.String())
	}
}

func ids(t *testing.T, path string) string {
	t.Helper()
	keys, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, k := range keys {
		list = append(list, k.ID)
	}
	return strings.Join(list, " ")
}

func TestKeyFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "keyring.json")
	a, b, c := newKey(t), newKey(t), newKey(t)
	if err := WriteFile(path, []Key{a}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if keys, err := ReadFile(path); err != nil || !slices.Equal(keys, []Key{a}) {
		t.Errorf("ReadFile = %v, %v", keys, err)
	}
	steps := []struct {
		do   func() error
		want string
	}{
		{func() error { return AddKey(path, b, true) }, b.ID + " " + a.ID},
		{func() error { return AddKey(path, c, false) }, b.ID + " " + a.ID + " " + c.ID},
		{func() error { return PromoteKey(path, c.ID) }, c.ID + " " + b.ID + " " + a.ID},
		{func() error { return RemoveKey(path, b.ID) }, c.ID + " " + a.ID},
		{func() error { return RemoveKey(path, c.ID) }, a.ID},
	}
	for i, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if got := ids(t, path); got != s.want {
			t.Errorf("step %d: keys %s, want %s", i, got, s.want)
		}
	}
	for name, err := range map[string]error{
		"the only key":   RemoveKey(path, a.ID),
		"no such key":    RemoveKey(path, b.ID),
		"promote nobody": PromoteKey(path, b.ID),
		"same key twice": AddKey(path, a, true),
		"empty keyring":  WriteFile(path, nil),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := ids(t, path); got != a.ID {
		t.Errorf("after the errors the file has %s", got)
	}
	if files, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "*")); len(files) != 1 {
		t.Errorf("files left behind: %v", files)
	}
}

func TestWriteFileFollowsALink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	if err := WriteFile(file, []Key{newKey(t)}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	k := newKey(t)
	if err := WriteFile(link, []Key{k}); err != nil {
		t.Fatal(err)
	}
	if got := ids(t, file); got != k.ID {
		t.Errorf("the file behind the link has %s, want %s", got, k.ID)
	}
}

func TestReadFileRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "keyring.json")
	if err := WriteFile(path, []Key{newKey(t)}); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o620, 0o602, 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v, want an error that says chmod 600", mode, err)
		}
	}
	big := filepath.Join(dir, "big")
	if err := os.WriteFile(big, bytes.Repeat([]byte(" "), maxKeyringBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{big, dir, filepath.Join(dir, "none")} {
		if _, err := ReadFile(p); err == nil {
			t.Errorf("ReadFile(%s) took it", p)
		}
	}
}
