package main

import (
	"strings"
	"testing"
)

func TestPublicLimit(t *testing.T) {
	t.Parallel()
	parse := func(args ...string) config {
		c, err := parseConfig(append([]string{"-dev"}, args...), func(string) string { return "" }, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.dev.on = false
		return c
	}
	for _, c := range []struct {
		flags []string
		files int
		most  int // 0: an error
	}{
		{nil, 65536, 65112},
		{nil, 1024, 802},
		{nil, 256, 82},
		{nil, 160, 0},
		{[]string{"-max-connections", "500"}, 1024, 500},
		{[]string{"-max-connections", "1000"}, 1024, 0},
		{[]string{"-max-connections", "10"}, 1024, 0},
		{[]string{"-db-relaxed-conns", "100"}, 256, 0},
	} {
		limit, err := publicLimit(parse(c.flags...), c.files)
		switch {
		case c.most == 0 && (err == nil || !strings.Contains(err.Error(), "ulimit -n")):
			t.Errorf("%v with %d files: %v", c.flags, c.files, err)
		case c.most > 0 && err != nil:
			t.Errorf("%v with %d files: %v", c.flags, c.files, err)
		case c.most > 0 && limit.Most() != c.most:
			t.Errorf("%v with %d files: %d connections", c.flags, c.files, limit.Most())
		}
	}
}
