package browser

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// unreadable lists the texts that have too little contrast with what is behind
// them (WCAG 2.2, level AA), and controls whose border cannot be told from the
// card. What is disabled or not shown does not count.
const unreadable = `(() => {
	const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
	const rgba = (color) => {
		canvas.clearRect(0, 0, 1, 1);
		canvas.fillStyle = color;
		canvas.fillRect(0, 0, 1, 1);
		return canvas.getImageData(0, 0, 1, 1).data;
	};
	const luminance = ([r, g, b]) => {
		const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
		return 0.2126 * x + 0.7152 * y + 0.0722 * z;
	};
	const behind = (element) => {
		for (; element; element = element.parentElement) {
			const color = rgba(getComputedStyle(element).backgroundColor);
			if (color[3] > 250) return color;
		}
		return rgba('white');
	};
	const contrast = (a, b) => {
		const [x, y] = [luminance(a), luminance(b)];
		return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
	};
	const found = [];
	for (const element of document.querySelectorAll('body *')) {
		if (!element.checkVisibility({ visibilityProperty: true }) || element.matches(':disabled')) continue;
		const style = getComputedStyle(element);
		const control = element.matches('input:not([type=hidden])');
		const texts = control || [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
		if (texts && contrast(rgba(style.color), behind(element)) < 4.5)
			found.push('text ' + element.outerHTML.slice(0, 80));
		if (control && contrast(rgba(style.borderTopColor), behind(element.parentElement)) < 3)
			found.push('border ' + element.outerHTML.slice(0, 80));
	}
	return found;
})()`

// nameless lists what can be used but has no name that a screen reader could say.
const nameless = `[...document.querySelectorAll('button, a, input:not([type=hidden]), summary, progress, [tabindex="0"]')]
	.filter((e) => !(e.ariaLabel || [e, ...(e.labels ?? [])].some((named) => named.textContent.trim()) || e.getAttribute('aria-labelledby')))
	.map((e) => e.outerHTML.slice(0, 80))`

// look checks what a state of a page looks like, on a narrow phone and on a
// desk, by day and by night.
func (b *tab) look(state string) {
	b.t.Helper()
	for _, width := range []int64{360, 1200} {
		b.do(chromedp.EmulateViewport(width, 800))
		if over := ask[int64](b, `document.scrollingElement.scrollWidth`); over > width {
			b.t.Errorf("%s: at a width of %d the page is %d wide\n%s", state, width, over, ask[string](b, fmt.Sprintf(
				`[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > %d).map((e) => e.outerHTML.slice(0, 80)).join('\n')`, width)))
		}
	}
	for _, scheme := range []string{"light", "dark"} {
		b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
				{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
			}})
			return err
		}))
		if found := ask[[]string](b, unreadable); len(found) > 0 {
			b.t.Errorf("%s, %s: too little contrast:\n%s", state, scheme, strings.Join(found, "\n"))
		}
	}
	if found := ask[[]string](b, nameless); len(found) > 0 {
		b.t.Errorf("%s: without a name:\n%s", state, strings.Join(found, "\n"))
	}
}

// The pages in all their states, and the way through them without a mouse.
func TestLooksAndKeyboard(t *testing.T) {
	t.Parallel()
	server := newServer(t, common.binary, [4]int{})
	server.createUser("dora", password)
	b := openTab(t, newProfile(t), "about:blank")
	b.block(server.page + "/config.json")
	b.do(chromedp.Navigate(server.page))
	b.until(`document.querySelector('#notice').textContent.includes('does not answer')`)
	if ask[bool](b, `document.querySelector('#sign-in').checkVisibility()`) {
		t.Error("a page that does not know where to sign in shows the button")
	}
	b.block()
	b.do(chromedp.Reload())
	b.until(`document.querySelector('#sign-in').checkVisibility() && document.querySelector('#commands-msg').textContent`)
	b.look("signed out")

	b.tabTo("#sign-in")
	b.press(kb.Enter)
	b.until(`document.activeElement?.id === 'username'`)
	b.look("login page")
	b.press("dora" + kb.Tab + "wrong" + kb.Enter)
	b.until(`document.querySelector('[role=alert]') && document.activeElement?.id === 'password'`)
	b.look("login page after a wrong password")
	b.press(password + kb.Enter)
	b.until(`document.querySelector('#user')?.dataset.userId === 'dora'`)
	b.look("signed in")

	gone := server.publish("dora", "too late", time.Second)
	server.publish("dora", strings.Repeat("unbreakable", 60), 0)
	server.publish("dora", map[string]any{"key": strings.Repeat("x", 300)}, 0)
	poll(t, func() string { return "the message with a ttl expires" }, func() bool {
		var message struct{ State string }
		server.call("GET", fmt.Sprintf("%s/v1/users/dora/messages/%d", server.gateway, gone), server.apiKey, nil, &message)
		return message.State == "expired"
	})
	b.tabTo("#connect")
	b.press(" ")
	b.untilState("connected")
	b.until(`document.activeElement.id === 'disconnect'`) // the focus is not lost with the button
	b.untilShown(3)
	b.tabTo("#task-wait") // its content is selected
	b.press("600" + kb.Enter)
	b.until(`document.querySelector('#tasks li[data-status=running]')`)
	b.tabTo("summary")
	b.press(kb.Enter)
	b.until(`document.querySelector('#commands').open`)
	b.look("connected, with everything on it")

	server.stop()
	b.untilState("connecting")
	b.tabTo("#task-message")
	b.press(kb.Enter)
	b.until(`document.querySelector('#notice').checkVisibility()`)
	b.look("with the server away")
	b.quiet("ERR_BLOCKED_BY_CLIENT", "401 (Unauthorized)", "ERR_CONNECTION_REFUSED", "WebSocket connection to")
}

// block makes requests fail from now on; none lets all through.
func (b *tab) block(urls ...string) {
	b.t.Helper()
	var blocked network.SetBlockedURLsParams
	for _, url := range urls {
		blocked.URLPatterns = append(blocked.URLPatterns, &network.BlockPattern{URLPattern: url, Block: true})
	}
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		if _, err := cdp.Call(ctx, t, network.Enable, network.EnableParams{}); err != nil {
			return err
		}
		_, err := cdp.Call(ctx, t, network.SetBlockedURLs, blocked)
		return err
	}))
}

// tabTo presses the tab key until an element has the focus, and checks that one
// can see it.
func (b *tab) tabTo(selector string) {
	b.t.Helper()
	for range 30 {
		b.press(kb.Tab)
		if ask[bool](b, fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) {
			if !ask[bool](b, `parseFloat(getComputedStyle(document.activeElement).outlineWidth) >= 2`) {
				b.t.Errorf("%s has the focus, and nothing shows it", selector)
			}
			return
		}
	}
	b.t.Fatalf("the tab key does not get to %s\n%s", selector, b.visible())
}
