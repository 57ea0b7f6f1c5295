package buildinfo

import (
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestWhatTheLinkerWroteWins(t *testing.T) {
	defer func(v, c string) { version, commit = v, c }(version, commit)
	version, commit = "1.2.3", "0123abc"
	if got, want := Read().String(), "1.2.3 0123abc "+runtime.Version(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	version, commit = "", ""
	got := Read()
	if got.Version == "" || got.Commit == "" || !strings.HasPrefix(got.Go, "go") {
		t.Errorf("without the linker: %+v", got)
	}
}

func TestRevision(t *testing.T) {
	t.Parallel()
	setting := func(key, value string) debug.BuildSetting { return debug.BuildSetting{Key: key, Value: value} }
	for want, settings := range map[string][]debug.BuildSetting{
		"":             {setting("vcs.modified", "true")},
		"abcd":         {setting("vcs.revision", "abcd"), setting("vcs.modified", "false")},
		"abcd+changes": {setting("vcs.modified", "true"), setting("vcs.revision", "abcd")},
	} {
		if got := revision(settings); got != want {
			t.Errorf("%v: %q, want %q", settings, got, want)
		}
	}
}
