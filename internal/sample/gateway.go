package sample

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	attemptTimeout = 10 * time.Second
	firstBackoff   = 250 * time.Millisecond
	longestBackoff = 30 * time.Second
	longestRetry   = 5 * time.Minute // of a Retry-After: a mistaken hour must not hold a result back
	answerLimit    = 16 << 10        // bytes of an answer that are read
	resultType     = "sample.result"
)

// gateway posts results to the gateway's POST /v1/messages.
type gateway struct {
	client      *http.Client
	url         string
	apiKey      string
	giveUpAfter time.Duration
}

func newGateway(cfg Config) *gateway {
	return &gateway{
		client: &http.Client{
			Transport: cfg.Transport,
			Timeout:   attemptTimeout,
			// A redirect would take the API key somewhere nobody configured.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		url:         strings.TrimRight(cfg.GatewayURL, "/") + "/v1/messages",
		apiKey:      cfg.APIKey,
		giveUpAfter: cfg.GiveUpAfter,
	}
}

// receipt is the gateway's answer to a posted result.
type receipt struct {
	Seq      int64 `json:"seq"`
	Repeated bool  `json:"repeated"`
	attempts int
}

// refusal is an answer that is not 2xx.
type refusal struct {
	status     int
	problem    string // the problem document's words, if there was one
	retryAfter time.Duration
}

func (r *refusal) Error() string {
	if r.problem == "" {
		return fmt.Sprintf("the gateway answered %d", r.status)
	}
	return fmt.Sprintf("the gateway answered %d: %s", r.status, r.problem)
}

// final reports whether repeating the request cannot help.
func (r *refusal) final() bool {
	return r.status < 500 && r.status != http.StatusTooManyRequests && r.status != http.StatusRequestTimeout
}

// post offers t's result until the gateway has taken it. Network errors, 408,
// 429 and 5xx are repeated with full-jitter backoff, never earlier than
// Retry-After says; any other refusal is final. It gives up when the next
// attempt would begin later than giveUpAfter from now.
func (g *gateway) post(ctx context.Context, t *task, log *slog.Logger) (receipt, error) {
	body, err := encode(struct {
		UserID  string          `json:"userId"`
		Message json.RawMessage `json:"message"`
		Type    string          `json:"type"`
	}{t.userID, t.message, resultType})
	if err != nil {
		return receipt{}, fmt.Errorf("encode result: %w", err)
	}
	giveUp := time.Now().Add(g.giveUpAfter)
	for attempt := 1; ; attempt++ {
		answer, err := g.attempt(ctx, t, body)
		if err == nil {
			answer.attempts = attempt
			return answer, nil
		}
		var refused *refusal
		if errors.As(err, &refused) && refused.final() {
			return receipt{}, err
		}
		if ctx.Err() != nil {
			return receipt{}, fmt.Errorf("%w; last attempt: %w", context.Cause(ctx), err)
		}
		pause := backoff(attempt)
		if refused != nil {
			pause += min(refused.retryAfter, longestRetry)
		}
		if time.Now().Add(pause).After(giveUp) {
			return receipt{}, fmt.Errorf("gave up after %d attempts in %s: %w", attempt, g.giveUpAfter, err)
		}
		log.Warn("posting the result failed, will try again",
			"attempt", attempt, "retry_in_seconds", pause.Seconds(), "err", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return receipt{}, fmt.Errorf("%w; last attempt: %w", context.Cause(ctx), err)
		}
	}
}

// encode is json.Marshal without \u003c for <: the user's bytes keep their size.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimRight(buf.Bytes(), "\n"), nil
}

// attempt is one POST.
func (g *gateway) attempt(ctx context.Context, t *task, body []byte) (receipt, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url, bytes.NewReader(body))
	if err != nil {
		return receipt{}, fmt.Errorf("build request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+g.apiKey)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", t.id)
	if t.traceparent != "" {
		req.Header.Set("Traceparent", t.traceparent)
	}
	res, err := g.client.Do(req)
	if err != nil {
		return receipt{}, fmt.Errorf("post result: %w", err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, answerLimit))
	if err != nil {
		return receipt{}, fmt.Errorf("read the gateway's answer: %w", err)
	}
	if res.StatusCode/100 != 2 {
		return receipt{}, &refusal{
			status:     res.StatusCode,
			problem:    problemWords(raw),
			retryAfter: retryAfter(res.Header.Get("Retry-After"), time.Now()),
		}
	}
	var answer receipt
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Seq <= 0 {
		// Something else than the gateway answers there. The idempotency key
		// makes it safe to ask again once the address is right.
		return receipt{}, fmt.Errorf("post result: answer %d is not a receipt", res.StatusCode)
	}
	return answer, nil
}

// backoff before attempt n+1: anywhere between nothing and the exponential
// limit, so that tasks that failed together do not come back together.
func backoff(n int) time.Duration {
	limit := min(firstBackoff<<min(n-1, 16), longestBackoff)
	return time.Millisecond + rand.N(limit)
}

// retryAfter reads either form of the header; nothing readable is 0.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
		return time.Duration(min(max(seconds, 0), int(longestRetry/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(at.Sub(now), 0), longestRetry)
	}
	return 0
}

// problemWords takes the sentence out of a problem document, for the log.
func problemWords(raw []byte) string {
	var doc struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return ""
	}
	words := doc.Detail
	if words == "" {
		words = doc.Title
	}
	return words[:min(len(words), 300)]
}
