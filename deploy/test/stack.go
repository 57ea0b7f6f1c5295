package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// project is not the name that .env gives: what is removed at the end must never be
// somebody's installation.
const project = "restante-compose-test"

// stack is the compose project under test.
type stack struct {
	ctx    context.Context
	origin string // the repository that we were started in
	root   string // a fresh clone of it
	dir    string // for our own files
	engine *engine
	env    []string
	ports  map[string]int // by variable
}

const (
	commandWithin  = 15 * time.Minute // every command; a build takes longest
	patience       = 3 * time.Minute  // with what takes seconds, on a machine that is busy
	pullWithin     = 5 * time.Minute
	standInsWithin = 15 * time.Minute
)

func newStack(ctx context.Context, origin, dir string, e *engine) (*stack, error) {
	s := &stack{ctx: ctx, origin: origin, root: filepath.Join(dir, "clone"), dir: dir, engine: e, ports: map[string]int{}}
	if err := s.clone(s.root); err != nil {
		return nil, err
	}
	for _, name := range []string{"RESTANTE_PORT", "RESTANTE_ISSUER_PORT", "RESTANTE_PAGE_PORT", "RESTANTE_PROMETHEUS_PORT"} {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		s.ports[name] = port
		s.env = append(s.env, name+"="+strconv.Itoa(port))
	}
	deploy := filepath.Join(s.root, "deploy")
	s.env = append(s.env,
		"COMPOSE_PROJECT_NAME="+project,
		"COMPOSE_FILE="+filepath.Join(deploy, "compose.yaml")+":"+filepath.Join(deploy, "compose.test.yaml"),
		"RESTANTE_URL="+s.url("RESTANTE_PORT"), "RESTANTE_SAMPLE_URL="+s.url("RESTANTE_PAGE_PORT"),
		fmt.Sprintf("RESTANTE_ISSUER=http://id.localhost:%d", s.ports["RESTANTE_ISSUER_PORT"]),
	)
	if os.Getenv("RESTANTE_BUILD_NETWORK") == "" {
		// Modules may be within reach of this machine and not of a container.
		s.env = append(s.env, "RESTANTE_BUILD_NETWORK=host")
	}
	// The stamp that the README's release has: it finds its image built.
	for name, args := range map[string][]string{"RESTANTE_VERSION": {"describe", "--tags", "--always"}, "RESTANTE_COMMIT": {"rev-parse", "--short=12", "HEAD"}} {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", s.root}, args...)...).Output()
		if err != nil {
			return nil, fmt.Errorf("git %s: %w", args[0], err)
		}
		s.env = append(s.env, name+"="+strings.TrimSpace(string(out)))
	}
	if e.host != "" {
		s.env = append(s.env, "DOCKER_HOST="+e.host)
	}
	return s, s.shim()
}

// clone is what somebody has who has just cloned the repository: a file that was not
// committed is missing there too.
func (s *stack) clone(dir string) error {
	for _, args := range [][]string{{"clone", "--quiet", s.origin, dir}, {"-C", s.origin, "status", "--short"}} {
		out, err := exec.CommandContext(s.ctx, "git", args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
		if args[0] == "-C" && len(out) > 0 {
			s.say("== not committed, so not tested:\n%s", out)
		}
	}
	return nil
}

func (s *stack) url(port string) string { return fmt.Sprintf("http://127.0.0.1:%d", s.ports[port]) }

// shim puts a docker in front of the path whose compose is the plugin or, where there
// is none, docker-compose: commands of the README run as they are written.
func (s *stack) shim() error {
	docker, err := exec.LookPath("docker")
	if err != nil {
		return skipped("there is no docker command")
	}
	compose := os.Getenv("RESTANTE_TEST_COMPOSE")
	if compose == "" {
		commands := composeCommands(s.ctx)
		if len(commands) == 0 {
			return skipped("there is neither docker compose nor docker-compose")
		}
		compose = commands[0]
	}
	if strings.HasSuffix(compose, "docker-compose") {
		s.env = append(s.env, "DOCKER_BUILDKIT=0", "COMPOSE_DOCKER_CLI_BUILD=0") // it has no other builder of its own
	}
	script := fmt.Sprintf("#!/bin/sh\nif [ \"$1\" = compose ]; then shift; exec %s \"$@\"; fi\nexec %s \"$@\"\n", compose, docker)
	bin := filepath.Join(s.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	s.env = append(s.env, "PATH="+bin+":"+os.Getenv("PATH"))
	return os.WriteFile(filepath.Join(bin, "docker"), []byte(script), 0o755)
}

// composeCommands are the plugin and docker-compose, as far as they are there.
func composeCommands(ctx context.Context) (commands []string) {
	for _, command := range []string{"docker compose", "docker-compose"} {
		words := append(strings.Fields(command), "version")
		path, err := exec.LookPath(words[0])
		if err == nil && exec.CommandContext(ctx, path, words[1:]...).Run() == nil {
			commands = append(commands, strings.Replace(command, words[0], path, 1))
		}
	}
	return commands
}

func (s *stack) say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// shell runs a script with the stack's environment, in deploy/. It returns what was
// written to standard output.
func (s *stack) shell(script string) (string, error) { return s.shellWithin(commandWithin, script) }

func (s *stack) shellWithin(limit time.Duration, script string) (string, error) {
	return s.shellContext(s.ctx, limit, script)
}

func (s *stack) shellContext(ctx context.Context, limit time.Duration, script string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	bash := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	bash.Dir, bash.Env = filepath.Join(s.root, "deploy"), append(os.Environ(), s.env...)
	var out, errs bytes.Buffer
	bash.Stdout, bash.Stderr = &out, &errs
	bash.WaitDelay = 5 * time.Second
	if err := bash.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w: %s", firstLine(script), err, last(out.String())+"\n"+last(errs.String()))
	}
	return out.String(), nil
}

// compose runs one docker compose command.
func (s *stack) compose(args string) (string, error) { return s.shell("docker compose " + args) }

// containers are the ids of a service's containers, running or not.
func (s *stack) containers(service string) ([]string, error) {
	out, err := s.compose("ps -q " + service)
	return strings.Fields(out), err
}

// healthy waits until each of these containers is.
func (s *stack) healthy(ids ...string) error {
	return s.eventually(func() error {
		out, err := s.shell("docker inspect --format '{{.State.Health.Status}}' " + strings.Join(ids, " "))
		states := strings.Fields(out)
		if err == nil && slices.ContainsFunc(states, func(state string) bool { return state != "healthy" }) {
			err = wrong("containers are %v", states)
		}
		return err
	})
}

// eventually tries until it holds, and says at last why it does not.
func (s *stack) eventually(holds func() error) error {
	for until := time.Now().Add(patience); ; {
		err := holds()
		if err == nil || s.ctx.Err() != nil {
			return err
		}
		if time.Now().After(until) {
			return fmt.Errorf("after %s: %w", patience, err)
		}
		if err := pause(s.ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
}

// refusals are what a registry says of an image that it does not have: that is a fault
// of the name, and not of the way there.
var refusals = regexp.MustCompile(`manifest|access denied|: denied|not found: |invalid reference`)

// baseImages makes sure that the images deploy/ names are there: kept, pulled, or made.
func (s *stack) baseImages() error {
	var missing []string
	for _, image := range s.named() {
		if _, err := s.shell("docker image inspect " + image); err == nil {
			continue
		}
		if _, err := s.shellWithin(pullWithin, "docker pull -q "+image); err != nil {
			if refusals.MatchString(err.Error()) {
				return err
			}
			missing = append(missing, image)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	script := os.Getenv("RESTANTE_BASE_IMAGES_SCRIPT")
	if script == "" {
		script = filepath.Join(s.origin, "..", "shared", "images", "standins.sh")
	}
	if _, err := os.Stat(script); err != nil {
		return skipped("no registry has %v, and RESTANTE_BASE_IMAGES_SCRIPT names no script that makes them", missing)
	}
	s.say("== stand-ins for base images: %s", strings.Join(missing, " "))
	command := script + " " + strings.Join(missing, " ")
	_, err := s.shellWithin(standInsWithin, command)
	if err != nil { // the network may have failed; what was made is kept
		_, err = s.shellWithin(standInsWithin, command)
	}
	return err
}

// named are the images of others that the test needs: those of the Dockerfile and of
// compose.yaml, but for the two that compose.test.yaml replaces.
func (s *stack) named() (images []string) {
	for _, file := range []string{"Dockerfile", "compose.yaml"} {
		text, err := os.ReadFile(filepath.Join(s.root, "deploy", file))
		if err != nil {
			continue // compose will say it better
		}
		for _, m := range regexp.MustCompile(`(?m)^(?:ARG \w+_IMAGE=|    image: )(\S+)`).FindAllSubmatch(text, -1) {
			image := string(m[1])
			if !strings.Contains(image, "dexidp/") && !strings.HasPrefix(image, "grafana/") && !slices.Contains(images, image) {
				images = append(images, image)
			}
		}
	}
	return images
}

// evidence shows the end of every container's log, for a failure.
func (s *stack) evidence() {
	for _, command := range []string{"docker compose ps -a || docker compose ps", "docker compose logs --no-color --tail 10"} {
		out, err := s.shellContext(context.WithoutCancel(s.ctx), patience, command)
		s.say("%s\n%s", command, out)
		if err != nil {
			s.say("%v", err)
		}
	}
}

// remove takes the whole project away, its volumes too.
func (s *stack) remove() error {
	_, err := s.shellContext(context.WithoutCancel(s.ctx), patience, "docker compose down -v --remove-orphans -t 5")
	return err
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

// last is the end of a long text.
func last(text string) string {
	text = strings.TrimSpace(text)
	return text[max(0, len(text)-1000):]
}

var errWrong = errors.New("not as it must be")

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errWrong, fmt.Sprintf(format, args...))
}
