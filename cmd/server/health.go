package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// healthTimeout is shorter than what container engines give a health check.
const healthTimeout = 3 * time.Second

// health asks a URL and says by the exit code whether it answers 200. A container
// without a shell has no other program to do that. The answer is printed: it is
// what `docker inspect` shows of a replica that is not healthy.
func health(ctx context.Context, url string, stdout, stderr io.Writer) int {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		fmt.Fprintln(stderr, "server:", err)
		return exitUsage
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		fmt.Fprintln(stderr, "server:", err)
		return exitError
	}
	defer answer.Body.Close()
	if _, err := io.Copy(stdout, io.LimitReader(answer.Body, 4<<10)); err != nil {
		fmt.Fprintln(stderr, "server: read the answer:", err)
		return exitError
	}
	if answer.StatusCode != http.StatusOK {
		fmt.Fprintln(stderr, "server:", answer.Status)
		return exitError
	}
	return exitOK
}
