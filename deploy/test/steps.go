package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

func (t *test) build() error {
	// What the stamp says is what was built.
	commit, err := exec.CommandContext(t.ctx, "git", "-C", t.root, "rev-parse", "--short=12", "HEAD").Output()
	if err == nil {
		t.env = append(t.env, "RESTANTE_COMMIT="+strings.TrimSpace(string(commit)))
	}
	if _, err := t.compose("build"); err != nil {
		return err
	}
	msg := exec.CommandContext(t.ctx, "go", "build", "-o", filepath.Join(t.dir, "bin", "msg"), "./cmd/msg")
	msg.Dir = t.root
	if out, err := msg.CombinedOutput(); err != nil {
		return fmt.Errorf("build msg: %w: %s", err, out)
	}
	return nil
}

// image looks at what was built: small, without a shell, run by nobody in particular,
// with all programs, stamped, and content with a file system that it cannot write.
func (t *test) image() error {
	const name = "restante:compose-test"
	size, err := t.shell("docker image inspect --format '{{.Size}} {{.Config.User}}' " + name)
	if err != nil {
		return err
	}
	fields := strings.Fields(size)
	bytes, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return err
	}
	t.say("   %.1f MB", float64(bytes)/1e6)
	if len(fields) != 2 || fields[1] != "65532:65532" {
		return wrong("the image's user is %q", size)
	}
	for _, program := range []string{"server -version", "migrate version", "msg -version", "sample -version"} {
		name, args, _ := strings.Cut(program, " ")
		out, err := t.shell(fmt.Sprintf("docker run --rm --read-only --cap-drop ALL --network none --entrypoint /usr/local/bin/restante-%s restante:compose-test %s", name, args))
		if err != nil {
			return err
		}
		if !strings.Contains(out, "compose-test") || !strings.Contains(out, t.variable("RESTANTE_COMMIT")) {
			return wrong("restante-%s says %q", program, out)
		}
	}
	if out, err := t.shell("docker run --rm --entrypoint /bin/sh " + name + " -c true"); err == nil {
		return wrong("the image has a shell: %s", out)
	}
	return nil
}

// systemdUnit lets systemd judge the unit, in a root directory where its programs are.
func (t *test) systemdUnit() error {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.say("   not tried: there is no systemd-analyze")
		return nil
	}
	out, err := t.shell("root=" + filepath.Join(t.dir, "root") + `
mkdir -p $root/usr/local/bin $root/etc/systemd/system $root/usr/lib/systemd
for name in server migrate; do printf '#!/bin/sh\n' >$root/usr/local/bin/restante-$name; done
chmod +x $root/usr/local/bin/*
cp -r /lib/systemd/system $root/usr/lib/systemd/
cp systemd/restante.service $root/etc/systemd/system/
systemd-analyze verify --root=$root restante.service 2>&1
systemd-analyze security --offline=true systemd/restante.service | tail -n 1`)
	if err != nil {
		return err
	}
	t.say("   %s", strings.TrimSpace(out))
	return nil
}

// variable is one of the stack's environment variables.
func (s *stack) variable(name string) string {
	for _, v := range s.env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

// up is the one command, from nothing.
func (t *test) up() error {
	if _, err := t.compose("up -d"); err != nil {
		return err
	}
	out, err := t.compose("logs --no-color ready")
	if err != nil {
		return err
	}
	for _, want := range []string{"Restante is running.", "sign in as testUser, password ", "compose run --rm"} {
		if !strings.Contains(out, want) {
			return wrong("ready does not say %q: %s", want, out)
		}
	}
	gateways, err := t.containers("gateway")
	if err != nil {
		return err
	}
	if len(gateways) != 3 {
		return wrong("%d replicas", len(gateways))
	}
	out, err = t.shell("docker inspect --format '{{.HostConfig.ReadonlyRootfs}} {{.State.Health.Status}}' " + strings.Join(gateways, " "))
	if err == nil && strings.Count(out, "true healthy") != 3 {
		err = wrong("the replicas are %s", out)
	}
	return err
}

// noSecrets reads every secret of the installation and looks for it where it must not
// be: in compose's configuration, in the containers' settings, in the image.
func (t *test) noSecrets() error {
	// The one service that sees all of them; its image has no shell to read them with.
	out, err := t.shell(`for v in $(docker volume ls -q | grep '^` + project + `_secrets-'); do
		docker run --rm --network none -v $v:/s:ro --entrypoint sh postgres:17-bookworm -c 'for f in /s/*; do [ -f $f ] && echo "$f $(cat $f | tr -d "\n ")"; done; true'
	done`)
	if err != nil {
		return err
	}
	seen, err := t.shell("docker compose config; docker inspect $(docker compose ps -q); docker history --no-trunc restante:compose-test")
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 7 {
		return wrong("%d secrets instead of 7", len(lines))
	}
	for _, line := range lines {
		file, secret, _ := strings.Cut(line, " ")
		if len(secret) < 20 {
			return wrong("%s holds %d bytes", file, len(secret))
		}
		if strings.Contains(seen, secret) {
			return wrong("what is in %s is shown by docker", file)
		}
	}
	return nil
}

// sevenSteps is the test of the seed's README: create a user, sign in, connect, send,
// stop, send several, reconnect and have them all. The tasks run beside each other, so
// whose message is first is not known; the load is what judges order.
const sevenSteps = `
msg create-user -u "$user" -p 'Passw0rd!'
eval "$(msg auth -u "$user" -p 'Passw0rd!')"
export ID_TOKEN
msg connect-websocket -n 1 >"$out.first" & connected=$!
msg send-message 'Asynchronous is cool' -w 1
wait $connected
grep -qx 'Asynchronous is cool' "$out.first"
for n in 1 2 3 4; do msg send-message "message $n" -w 0; done
msg connect-websocket -n 4 >"$out.second"
printf 'message %s\n' 1 2 3 4 | cmp - <(sort "$out.second")
`

func (t *test) sevenStepsHere() error {
	_, err := t.shell("user=here out=" + filepath.Join(t.dir, "here") + sevenSteps)
	return err
}

func (t *test) sevenStepsInContainers() error {
	_, err := t.shell("user=there out=" + filepath.Join(t.dir, "there") +
		"\nmsg() { docker compose run --rm -T -e ID_TOKEN msg \"$@\"; }; export ID_TOKEN=\n" + sevenSteps)
	return err
}

// readmeBlocks is what each shell block of deploy/README.md must have done; the block
// is known by its first line.
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
	replicas := func(n int) func(string) error {
		return func(string) error {
			ids, err := t.containers("gateway")
			if err == nil && len(ids) != n {
				err = wrong("%d replicas instead of %d", len(ids), n)
			}
			return err
		}
	}
	return map[string]func(string) error{
		"docker compose up -d\n": says("Restante is running"),
		"password=":              says("Asynchronous is cool"),
		"docker compose run --rm msg keys create":     says("rk_", "billing", "in force"),
		"docker compose run --rm -T msg keyring list": says("seals and opens"),
		"docker compose up -d --scale gateway=5":      replicas(3),
		"docker compose build":                        replicas(3),
		"docker compose kill -s HUP haproxy":          says(),
		"docker compose exec -T postgres pg_dump":     says("replaced by"),
	}
}

// readme runs every shell block of deploy/README.md, but for the last, which takes
// everything away and is a step of its own.
func (t *test) readme() error {
	text, err := os.ReadFile(filepath.Join(t.root, "deploy", "README.md"))
	if err != nil {
		return err
	}
	known := t.readmeBlocks()
	for _, m := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllSubmatch(text, -1) {
		block := string(m[1])
		if strings.HasPrefix(block, "docker compose down") {
			continue
		}
		check := known[blockName(block, known)]
		if check == nil {
			return wrong("nothing is known of the README's block %q", firstLine(block))
		}
		out, err := t.shell("cd " + t.dir + "\n" + block)
		if err == nil {
			err = check(out)
		}
		if err != nil {
			return fmt.Errorf("README, %q: %w", firstLine(block), err)
		}
		delete(known, blockName(block, known))
	}
	for name := range known {
		return wrong("the README has no block that begins with %q", name)
	}
	return nil
}

// blockName is the longest name that the block begins with.
func blockName(block string, known map[string]func(string) error) (name string) {
	for k := range known {
		if strings.HasPrefix(block, k) && len(k) > len(name) {
			name = k
		}
	}
	return name
}

// downAndUp: what was accepted is there when everything was stopped and started.
func (t *test) downAndUp() error {
	_, err := t.shell(`
msg create-user -u later -p 'Passw0rd!'
docker compose run --rm msg publish later '"kept"'
docker compose down
test -z "$(docker compose ps -q)"
docker compose up -d
eval "$(msg auth -u later -p 'Passw0rd!')"
msg connect-websocket -n 1 | grep -x kept`)
	return err
}

// downLeavesNothing runs the README's last block.
func (t *test) downLeavesNothing() error {
	if _, err := t.compose("down -v"); err != nil {
		return err
	}
	out, err := t.shell(`label=label=com.docker.compose.project=` + project + `
docker ps -aq --filter $label; docker volume ls -q --filter $label; docker network ls -q --filter $label`)
	if err == nil && strings.TrimSpace(out) != "" {
		err = wrong("left over: %s", out)
	}
	return err
}
