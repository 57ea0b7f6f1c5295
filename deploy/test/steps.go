package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// valid asks each compose that is there: what one takes the other may refuse.
func (t *test) valid() error {
	for _, compose := range composeCommands(t.ctx) {
		version, err := t.shell(compose + " version --short")
		if err != nil {
			return err
		}
		if _, err := t.shell(fmt.Sprintf("%[1]s -f compose.yaml config -q; %[1]s config -q", compose)); err != nil {
			return err
		}
		t.say("   by %s", strings.TrimSpace(version))
	}
	return nil
}

func (t *test) build() error {
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
	name := "restante:" + t.variable("RESTANTE_VERSION")
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
		out, err := t.shell(fmt.Sprintf("docker run --rm --read-only --cap-drop ALL --network none --entrypoint /usr/local/bin/restante-%s restante:$RESTANTE_VERSION %s", name, args))
		if err != nil {
			return err
		}
		if !strings.Contains(out, t.variable("RESTANTE_VERSION")) || !strings.Contains(out, t.variable("RESTANTE_COMMIT")) {
			return wrong("restante-%s says %q", program, out)
		}
	}
	if out, err := t.shell("docker run --rm --entrypoint /bin/sh " + name + " -c true"); err == nil {
		return wrong("the image has a shell: %s", out)
	}
	return nil
}

// sameImage builds the same commit once more, in another place: the same layers come
// out. A file that has nothing to do with it has the programs linked again, and without
// the image its layers are made again; only the dependencies are kept, for they take long.
func (t *test) sameImage() error {
	elsewhere := filepath.Join(t.dir, "elsewhere", "restante")
	if err := t.clone(elsewhere); err != nil {
		return err
	}
	_, err := t.shell(`show() { docker image inspect --format "$1" restante:$RESTANTE_VERSION; }
layers='{{range .RootFS.Layers}}{{println .}}{{end}}'
show "$layers" >../layers
id=$(show '{{.Id}}')
docker rmi restante:$RESTANTE_VERSION
date >` + elsewhere + `/cmd/unrelated.txt
COMPOSE_FILE=` + elsewhere + `/deploy/compose.yaml docker compose build gateway
show "$layers" | diff ../layers -
# The builder that tells when has made another image, if it has made one at all.
test "${DOCKER_BUILDKIT:-1}" = 1 || test $id != $(show '{{.Id}}')`)
	return err
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
	out, err := t.block("docker compose up -d\ndocker compose logs")
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
	seen, err := t.shell("docker compose config; docker inspect $(docker compose ps -q); docker history --no-trunc restante:$RESTANTE_VERSION")
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

func (t *test) downLeavesNothing() error {
	if _, err := t.block("docker compose down -v"); err != nil {
		return err
	}
	out, err := t.shell(`label=label=com.docker.compose.project=` + project + `
docker ps -aq --filter $label; docker volume ls -q --filter $label; docker network ls -q --filter $label`)
	if err == nil && strings.TrimSpace(out) != "" {
		err = wrong("left over: %s", out)
	}
	return err
}

// ownSecrets starts an installation whose secrets are files that somebody made.
func (t *test) ownSecrets() error {
	if os.Geteuid() != 0 {
		t.say("   not tried: only root can give files away")
		return nil
	}
	out, err := t.block("mkdir mine")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "Restante is running.") {
		return wrong("ready says %q", out)
	}
	out, err = t.shell(`password=$(cat mine/postgres/password)
grep -q ":$password@" mine/gateway/database-url
docker inspect --format '{{range .Mounts}}{{.Source}} {{end}}' $(docker compose ps -q postgres)
docker compose exec -T -e PGPASSWORD="$password" postgres psql -h postgres -U restante -d restante -Atc 'SELECT 1'
RESTANTE_SECRETS=./mine/ docker compose down -v`)
	if err == nil && !strings.Contains(out, "/mine/postgres ") {
		err = wrong("Postgres has mounted %s", out)
	}
	return err
}
