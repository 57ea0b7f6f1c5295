package devstack_test

import (
	"bufio"
	"os"
	osexec "os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// A process that is killed cannot stop its PostgreSQL; the kernel must.
func TestPostgresEndsWithItsProcess(t *testing.T) {
	t.Parallel()
	dir := newDir(t)
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DEVSTACK_TEST_CHILD="+dir)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(output).ReadString('\n')
	url := strings.TrimSpace(line)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatalf("the child said %q: %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // reports the kill

	// The server closes our connection when it stops.
	if err := conn.PgConn().Conn().SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 512)
	n, err := conn.PgConn().Conn().Read(answer)
	if err == nil && !strings.Contains(string(answer[:n]), "57P01") {
		t.Errorf("the server said %q, not that it shuts down", answer[:n])
	}
	if err != nil && os.IsTimeout(err) {
		t.Fatal("the server outlives the process that started it")
	}

	// It may still be stopping: the next start waits for that.
	if p := start(t, config(t, dir)); p.Attached() {
		t.Error("attached to a server nobody runs")
	}
}
