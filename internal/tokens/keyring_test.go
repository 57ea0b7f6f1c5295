package tokens

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func openKeyring(t *testing.T, keys ...Key) (*Keyring, string, *bytes.Buffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyring.json")
	if err := WriteFile(path, keys); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r, err := OpenKeyring(path, slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return r, path, &out
}

func has(r *Keyring, k Key) bool {
	got, ok := r.current.Load().byID[k.ID]
	return ok && got == k
}

func TestReloadKeepsKeysWhenTheFileIsBroken(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	r, path, out := openKeyring(t, a)
	if err := os.WriteFile(path, []byte(`{"keys":[{"kty":"oct"`), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := r.Reload(); err == nil {
			t.Fatal("a broken file was taken")
		}
	}
	if !has(r, a) {
		t.Error("the key in force is gone")
	}
	if n := strings.Count(out.String(), "level=ERROR"); n != 1 {
		t.Errorf("%d errors logged for one broken file, want 1:\n%s", n, out)
	}
	if n := r.failed.Load(); n != 3 {
		t.Errorf("%d failed looks counted, want 3", n)
	}
	// Another problem is news again.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(); err == nil || !has(r, a) {
		t.Errorf("file gone: error %v, key there %v", err, has(r, a))
	}
	if n := strings.Count(out.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d errors logged for two problems, want 2", n)
	}
	if err := WriteFile(path, []Key{b, a}); err != nil {
		t.Fatal(err)
	}
	if err := r.Reload(); err != nil || !has(r, a) || !has(r, b) {
		t.Errorf("repaired: error %v, keys %v", err, r.current.Load().byID)
	}
	if n := r.reloaded.Load(); n != 1 {
		t.Errorf("%d reloads counted, want 1", n)
	}
	if !strings.Contains(out.String(), "keyring readable again") {
		t.Errorf("nothing says that it is repaired:\n%s", out)
	}
}

func TestRunFollowsTheFile(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	r, path, _ := openKeyring(t, a)
	old, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		if err := WriteFile(path, []Key{b, a}); err != nil {
			t.Fatal(err)
		}
		// Same size but for the second key, and the same time: only the text tells.
		if err := os.Chtimes(path, old.ModTime(), old.ModTime()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(reloadEvery + time.Millisecond) // fake time
		synctest.Wait()
		if !has(r, b) {
			t.Error("Run has not taken over the new key")
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
}

func TestRunWithoutAFileEnds(t *testing.T) {
	t.Parallel()
	r, err := NewKeyring(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Run(ctx); err != nil {
		t.Error(err)
	}
	if err := r.Reload(); err != nil {
		t.Error(err)
	}
}

func TestUnknownKidLooksAtTheFile(t *testing.T) {
	t.Parallel()
	a, b := newKey(t), newKey(t)
	r, path, _ := openKeyring(t, a)
	synctest.Test(t, func(t *testing.T) {
		r.looked = time.Time{} // it was opened in real time
		if err := WriteFile(path, []Key{b, a}); err != nil {
			t.Fatal(err)
		}
		if got, ok := r.find(b.ID); !ok || got != b {
			t.Fatal("a key that is in the file was not found")
		}
		// From here on the file is broken, so that each look is counted.
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		for i := range 1000 {
			if _, ok := r.find(fmt.Sprintf("nobody-%d", i)); ok {
				t.Fatal("found a key that is nowhere")
			}
		}
		if n := r.failed.Load(); n != 1 {
			t.Errorf("1000 unknown kids at once read the file %d times, want once", n)
		}
		time.Sleep(missEvery)
		r.find("somebody")
		r.find("strange\nkid")
		if n := r.failed.Load(); n != 2 {
			t.Errorf("%d looks, want 2", n)
		}
	})
}

func TestPublicFileIsWarnedAbout(t *testing.T) {
	t.Parallel()
	r, path, out := openKeyring(t, newKey(t))
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := r.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(out.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, out)
	}
}
