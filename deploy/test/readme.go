package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// How blocks of deploy/README.md begin that steps of their own run.
const (
	blockStart   = "docker compose up -d\ndocker compose logs"
	blockRelease = "export RESTANTE_VERSION="
	blockReload  = "docker compose exec -T haproxy haproxy -c"
	blockRotate  = "old="
	blockOwn     = "mkdir mine"
	blockDown    = "docker compose down -v"
)

// readmeBlocks is what each other shell block of the README must have done, by how it
// begins.
func (t *test) readmeBlocks() map[string]func(out string) error {
	says := func(words ...string) func(string) error {
		return func(out string) error {
			for _, w := range words {
				if !strings.Contains(out, w) {
					return wrong("no %q in %s", w, last(out))
				}
			}
			return nil
		}
	}
	elsewhere := func(string) error { return nil }
	return map[string]func(string) error{
		blockStart: elsewhere, blockRelease: elsewhere, blockReload: elsewhere,
		blockRotate: elsewhere, blockOwn: elsewhere, blockDown: elsewhere,

		"password=": says("Asynchronous is cool"),
		"docker compose run --rm msg keys create": says("rk_", "billing", "in force"),
		"docker compose up -d --scale gateway=5": func(string) error {
			ids, err := t.containers("gateway")
			if err == nil && len(ids) != 3 {
				err = wrong("%d replicas instead of 3", len(ids))
			}
			return err
		},
		"docker compose exec -T postgres pg_dump": func(string) error { return nil }, // it succeeds
	}
}

// readme runs every shell block of the README that no other step runs.
func (t *test) readme() error {
	known := t.readmeBlocks()
	blocks, err := t.shellBlocks()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, block := range blocks {
		var name string
		for begins := range known {
			if strings.HasPrefix(block, begins) {
				name = begins
			}
		}
		switch name {
		case "":
			return wrong("nothing is known of the README's block %q", firstLine(block))
		case blockStart, blockRelease, blockReload, blockRotate, blockOwn, blockDown:
		default:
			out, err := t.shell(block)
			if err == nil {
				err = known[name](out)
			}
			if err != nil {
				return fmt.Errorf("README, %q: %w", name, err)
			}
		}
		seen[name] = true
	}
	for name := range known {
		if !seen[name] {
			return wrong("the README has no block that begins with %q", name)
		}
	}
	return nil
}

// block runs the README's shell block that begins so.
func (t *test) block(begins string) (string, error) {
	blocks, err := t.shellBlocks()
	if err != nil {
		return "", err
	}
	for _, block := range blocks {
		if strings.HasPrefix(block, begins) {
			return t.shell(block)
		}
	}
	return "", wrong("the README has no block that begins with %q", begins)
}

func (t *test) shellBlocks() (blocks []string, err error) {
	text, err := os.ReadFile(filepath.Join(t.root, "deploy", "README.md"))
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllSubmatch(text, -1) {
		blocks = append(blocks, string(m[1]))
	}
	return blocks, err
}
