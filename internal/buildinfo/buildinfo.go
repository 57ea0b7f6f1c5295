// Package buildinfo says which release a program is. Every program of ours shows
// the same text for -version, so that what runs where can be compared.
//
// The linker writes version and commit when an image is built (see
// deploy/Dockerfile), where there is no git to ask:
//
//	go build -ldflags "-X restante/internal/buildinfo.version=1.2.0 -X restante/internal/buildinfo.commit=0123abc" ./cmd/...
//
// Without it they are what the go command knows of the checkout.
package buildinfo

import (
	"cmp"
	"fmt"
	"runtime/debug"
)

// The linker can set variables of a package, and nothing else: this is the one
// reason why these are not constants. Nobody writes them at run time.
var version, commit string

// Info is what is known of a build; a field that is not known is "unknown".
type Info struct {
	Version string // of the release; "(devel)" in a checkout
	Commit  string // "+changes" at the end: it was built with changes on top
	Go      string // the Go release that built it
}

// Read returns this program's.
func Read() Info {
	i := Info{Version: version, Commit: commit}
	if build, ok := debug.ReadBuildInfo(); ok {
		i.Version, i.Go = cmp.Or(i.Version, build.Main.Version), build.GoVersion
		if i.Commit == "" {
			i.Commit = revision(build.Settings)
		}
	}
	for _, field := range []*string{&i.Version, &i.Commit, &i.Go} {
		*field = cmp.Or(*field, "unknown")
	}
	return i
}

func revision(settings []debug.BuildSetting) string {
	id, changes := "", ""
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			id = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			changes = "+changes"
		}
	}
	if id == "" {
		return ""
	}
	return id + changes
}

// String is one line: version, commit and Go release.
func (i Info) String() string { return fmt.Sprintf("%s %s %s", i.Version, i.Commit, i.Go) }
