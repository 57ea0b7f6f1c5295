package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

const (
	requestTimeout = 15 * time.Second
	maxAnswer      = 16 << 20 // bytes of an answer: more is not from a gateway
)

// service is one of the programs that msg talks to.
type service struct {
	name  string // as a person calls it
	base  string // URL without a slash at the end
	start string // what to do when nothing answers
}

func (e *env) gateway() (service, error) {
	base, err := e.address("RESTANTE_URL", defaultGateway)
	return service{"the gateway", base, "Is it running? Start it with: make run (or set RESTANTE_URL to where it is)"}, err
}

func (e *env) issuer() (service, error) {
	base, err := e.address("RESTANTE_ISSUER", defaultIssuer)
	return service{"the issuer", base, "Is it running? In development it starts with the gateway: make run (or set RESTANTE_ISSUER)"}, err
}

func (e *env) sample() (service, error) {
	base, err := e.address("RESTANTE_SAMPLE_URL", defaultSample)
	return service{"the sample application", base, "Is it running? In development it starts with the gateway: make run (or set RESTANTE_SAMPLE_URL)"}, err
}

// answered is a response that is not a success.
type answered struct {
	service service
	status  int
	problem problem
	retry   time.Duration
}

// problem is an RFC 9457 problem document, or an OAuth error.
type problem struct {
	Title       string `json:"title"`
	Detail      string `json:"detail"`
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

func (a *answered) Error() string {
	p := a.problem
	for _, words := range []string{p.Detail, p.Description, p.Title, p.Error} {
		if words != "" {
			return fmt.Sprintf("%s says: %s (%d)", a.service.name, printable(words), a.status)
		}
	}
	return fmt.Sprintf("%s at %s answered %d %s", a.service.name, a.service.base, a.status, http.StatusText(a.status))
}

// is reports whether err is an answer with this status.
func isStatus(err error, status int) bool {
	var a *answered
	return errors.As(err, &a) && a.status == status
}

// request is one HTTP request; credential and body are optional.
type request struct {
	method     string
	path       string // below the service's base, or a whole URL
	credential string // the Authorization header
	body       any    // sent as JSON, url.Values as a form
	headers    map[string]string
}

// httpClient does not follow redirects: they would take credentials to a place
// that nobody has named.
func httpClient() *http.Client {
	return &http.Client{
		Timeout:       requestTimeout,
		Transport:     transport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// transport looks NAME.localhost up on this machine when the resolver does not
// know it: browsers do so by themselves (RFC 6761), resolvers of some systems do
// not, and the issuer of deploy/compose.yaml has such a name.
func transport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	dialer := &net.Dialer{Timeout: requestTimeout}
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		var dns *net.DNSError
		if host, port, cut := net.SplitHostPort(address); cut == nil && strings.HasSuffix(host, ".localhost") && errors.As(err, &dns) {
			return dialer.DialContext(ctx, network, net.JoinHostPort("localhost", port))
		}
		return conn, err
	}
	// One command makes a handful of requests, each with a transport of its own.
	t.DisableKeepAlives = true
	return t
}

// call sends r and decodes a 2xx answer into out, which may be nil.
func (s service) call(ctx context.Context, r request, out any) error {
	var body io.Reader
	contentType := ""
	switch b := r.body.(type) {
	case nil:
	case url.Values:
		body, contentType = strings.NewReader(b.Encode()), "application/x-www-form-urlencoded"
	default:
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false) // what the user typed is what is sent
		if err := enc.Encode(b); err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body, contentType = &buf, "application/json"
	}
	target := r.path
	if !strings.Contains(target, "://") {
		target = s.base + target
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return fmt.Errorf("build request: %w", err)
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if r.credential != "" {
		req.Header.Set("Authorization", r.credential)
	}
	for name, value := range r.headers {
		req.Header.Set(name, value)
	}
	res, err := httpClient().Do(req)
	if err != nil {
		return s.unreachable(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return s.unreachable(err)
	}
	if res.StatusCode/100 != 2 {
		a := &answered{service: s, status: res.StatusCode}
		_ = json.Unmarshal(raw, &a.problem) // not a problem document: the status has to do
		if seconds, err := time.ParseDuration(res.Header.Get("Retry-After") + "s"); err == nil {
			a.retry = seconds
		}
		return a
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return hint(fmt.Errorf("%s at %s answered something that is not the expected JSON", s.name, s.base),
			"Is the address right?")
	}
	return nil
}

// unreachable puts a network error into words. It never shows the URL that was
// called: that of a connection carries a token.
func (s service) unreachable(err error) error {
	var dns *net.DNSError
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return hint(&absent{fmt.Sprintf("nothing answers at %s, where %s should be", s.base, s.name)}, s.start)
	case errors.As(err, &dns):
		return hint(&absent{fmt.Sprintf("there is no host %q, where %s should be", dns.Name, s.name)}, s.start)
	case isTimeout(err):
		return hint(fmt.Errorf("%s at %s does not answer in time", s.name, s.base), "Try again, or look at its log.")
	}
	return hint(fmt.Errorf("%s at %s cannot be reached: %w", s.name, s.base, err), s.start)
}

// absent is a service to which certainly nothing was sent.
type absent struct{ msg string }

func (a *absent) Error() string { return a.msg }

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout() || errors.Is(err, context.DeadlineExceeded)
}

// hinted is an error with the next step.
type hinted struct {
	err  error
	next string
}

func hint(err error, next string) error { return &hinted{err, next} }

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// plain is what the person at the terminal reads about err.
func plain(err error) string {
	words := err.Error()
	if errors.Is(err, context.Canceled) {
		return "stopped"
	}
	var h *hinted
	if errors.As(err, &h) {
		words += "\n" + h.next
	}
	return words
}
