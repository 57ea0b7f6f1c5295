package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/chromedp"
)

// shared is what the package's tests have in common: the server's binary, and
// one Chromium in which each test has a profile of its own.
type shared struct {
	binary  string
	browser context.Context
}

// common is set once, before the tests begin.
var common shared

func TestMain(m *testing.M) {
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func prepareAndRun(m *testing.M) (code int, err error) {
	ctx := context.Background()
	path, err := findChromium(ctx, os.Stderr)
	if err != nil {
		return 1, err
	}
	dir, err := os.MkdirTemp("", "restante-chromium-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)

	common.binary = filepath.Join(dir, "server")
	if out, err := exec.Command("go", "build", "-o", common.binary, "restante/cmd/server").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the server: %w\n%s", err, out)
	}

	// An own list of flags: no traffic but ours, and nothing of this machine's.
	allocator, stop := chromedp.NewExecAllocator(ctx,
		chromedp.ExecPath(path), chromedp.UserDataDir(filepath.Join(dir, "profile")),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-default-apps", true), chromedp.Flag("disable-extensions", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-breakpad", true),
		chromedp.Flag("disable-background-timer-throttling", true), chromedp.Flag("disable-renderer-backgrounding", true),
		chromedp.Flag("disable-backgrounding-occluded-windows", true), chromedp.Flag("force-color-profile", "srgb"),
		chromedp.Flag("password-store", "basic"), chromedp.Flag("use-mock-keychain", true),
	)
	defer stop() // kills it if it has not ended, and waits
	browser, cancel := chromedp.NewContext(allocator)
	defer cancel()
	common.browser = browser

	// The first Do binds the browser's life to its context, so the limit is on
	// the waiting only.
	started := make(chan error, 1)
	go func() { started <- chromedp.Do(browser) }()
	select {
	case err := <-started:
		if err != nil {
			return 1, fmt.Errorf("start %s: %w", path, err)
		}
	case <-time.After(time.Minute):
		return 1, fmt.Errorf("%s has not started within a minute", path)
	}
	code = m.Run()
	closing, end := context.WithTimeout(browser, 10*time.Second)
	defer end()
	if err := chromedp.Cancel(closing); err != nil {
		fmt.Fprintln(os.Stderr, "close Chromium:", err)
	}
	return code, nil
}

// newProfile is what one person's browser keeps: tabs of it share localStorage.
func newProfile(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := chromedp.NewContext(common.browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a profile: %v", err)
	}
	return ctx
}

// tab is one tab, and what the browser complained about in it.
type tab struct {
	t      testing.TB
	ctx    context.Context
	cancel context.CancelFunc
	reader sync.WaitGroup

	mu         sync.Mutex
	complaints []complaint
}

// complaint is a message on the console, an exception, or an issue that the
// browser's audits found (a violated policy, a field without a label).
type complaint struct {
	source string // "network" for a request that failed
	text   string
}

func openTab(t testing.TB, profile context.Context, url string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(profile)
	b := &tab{t: t, ctx: ctx, cancel: cancel}
	t.Cleanup(b.close)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("open a tab: %v", err)
	}
	console, issues := chromedp.Console(ctx), chromedp.Events(ctx, audits.IssueAdded)
	if _, err := chromedp.Call(ctx, audits.Enable, cdp.Empty{}); err != nil {
		t.Fatalf("enable audits: %v", err)
	}
	b.reader.Go(func() {
		for m, err := range console {
			if err != nil {
				return // the tab is closed
			}
			if m.Source == "rendering" && m.Type == chromedp.ConsoleInfo {
				continue // that we were faster than autofocus
			}
			b.complain(m.Source, fmt.Sprintf("%s (%s:%d)", m, m.URL, m.Line))
		}
	})
	b.reader.Go(func() {
		for issue, err := range issues {
			if err != nil {
				return
			}
			text, _ := json.Marshal(issue.Issue)
			b.complain("audit", string(text))
		}
	})
	b.do(chromedp.Navigate(url))
	return b
}

func (b *tab) complain(source, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, complaint{source, text})
}

// quiet fails the test if the browser has complained, except about what the
// test did on purpose: requests of which the text contains one of the words.
func (b *tab) quiet(expected ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
next:
	for _, c := range b.complaints {
		for _, word := range expected {
			if strings.Contains(c.text, word) {
				continue next
			}
		}
		b.t.Errorf("the browser complains (%s): %s", c.source, c.text)
	}
}

func (b *tab) close() {
	if b.cancel == nil {
		return
	}
	closing, end := context.WithTimeout(b.ctx, 10*time.Second)
	defer end()
	if err := chromedp.Cancel(closing); err != nil {
		b.t.Errorf("close the tab: %v", err)
	}
	b.cancel()
	b.cancel = nil
	b.reader.Wait()
}

// do performs actions, each within the usual limit.
func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	for i, action := range actions {
		ctx, cancel := context.WithTimeout(b.ctx, waitLimit)
		err := chromedp.Do(ctx, action)
		cancel()
		if err != nil {
			b.t.Fatalf("step %d: %v\n%s", i+1, err, b.visible())
		}
	}
}

// place is the middle of an element that a person could click now, or null.
const place = `((selector) => {
	const element = document.querySelector(selector);
	if (!element?.checkVisibility() || element.disabled) return null;
	element.scrollIntoView({ block: 'center', behavior: 'instant' });
	const box = element.getBoundingClientRect();
	const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
	return element.contains(document.elementFromPoint(x, y)) ? [x, y] : null;
})`

// click clicks with the mouse, when the element is there, enabled and not covered.
func (b *tab) click(selector string) {
	b.t.Helper()
	at := fmt.Sprintf("%s(%q)", place, selector)
	b.until(at)
	point := ask[[]float64](b, at)
	if len(point) != 2 {
		b.t.Fatalf("%s was there, and is not any more\n%s", selector, b.visible())
	}
	b.do(chromedp.MouseClickXY(point[0], point[1]))
}

// fill types into a field, over what was there.
func (b *tab) fill(selector, text string) {
	b.t.Helper()
	b.click(selector)
	ask[any](b, fmt.Sprintf("document.querySelector(%q).select()", selector))
	b.press(text)
	if typed := ask[string](b, fmt.Sprintf("document.querySelector(%q).value", selector)); typed != text {
		b.t.Fatalf("typed %q, the field has %q", text, typed)
	}
}

// press types keys into what has the focus.
func (b *tab) press(keys string) {
	b.t.Helper()
	b.do(chromedp.KeyEvent(keys))
}

// until waits for a JavaScript condition, across navigations.
func (b *tab) until(condition string) {
	b.t.Helper()
	var last error
	poll(b.t, func() string { return fmt.Sprintf("%s (%v)\n%s", condition, last, b.visible()) }, func() bool {
		ctx, cancel := context.WithTimeout(b.ctx, waitLimit)
		defer cancel()
		var met bool
		met, last = chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+condition+")"))
		return last == nil && met
	})
}

// visible is what the page shows, for messages about failures.
func (b *tab) visible() string {
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + '\n' + document.body.innerText`))
	if err != nil {
		return fmt.Sprintf("the page cannot be read: %v", err)
	}
	return text
}

// ask evaluates an expression.
func ask[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitLimit)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return value
}
