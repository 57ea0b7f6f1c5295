package browser

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

const password = "Passw0rd!"

// signIn goes through the issuer's login page.
func (b *tab) signIn(user string) {
	b.t.Helper()
	b.click("#sign-in")
	b.fill("#username", user)
	b.fill("#password", password)
	b.click("button[value=login]")
	b.until(fmt.Sprintf(`document.querySelector('#user')?.dataset.userId === %q`, user))
}

func (b *tab) connect() {
	b.t.Helper()
	b.click("#connect")
	b.untilState("connected")
}

func (b *tab) untilState(state string) {
	b.t.Helper()
	b.until(fmt.Sprintf(`document.querySelector('#state')?.dataset.state === %q`, state))
}

// untilShown waits for a message.
func (b *tab) untilShown(seq int) {
	b.t.Helper()
	b.until(fmt.Sprintf(`document.querySelector('#messages li[data-seq="%d"]')`, seq))
}

// rows are the messages and gaps on the page, top to bottom: "1 text", "gap 2-2".
func (b *tab) rows() []string {
	b.t.Helper()
	return ask[[]string](b, `[...document.querySelectorAll('#messages li')].map((li) =>
		li.dataset.seq ? li.dataset.seq + ' ' + li.querySelector('.text').textContent : 'gap ' + li.dataset.gap)`)
}

func (b *tab) wantRows(want ...string) {
	b.t.Helper()
	if got := b.rows(); !slices.Equal(got, want) {
		b.t.Errorf("the page shows\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// The story of issue and README: sign in, connect, a long task, close the tab,
// more is sent, reopen.
func TestWhatWaitsIsThereWhenTheTabIsOpenedAgain(t *testing.T) {
	t.Parallel()
	server := newServer(t, common.binary, [4]int{})
	server.createUser("ada", password)
	profile := newProfile(t)

	first := openTab(t, profile, server.page)
	first.until(`document.querySelector('#state').dataset.state === 'offline' && document.querySelector('#connect').disabled`)
	first.signIn("ada")
	if at := ask[string](first, `location.href`); at != server.page+"/" {
		t.Errorf("signed in, the address is %s: no code may stay in it", at)
	}
	first.connect()

	first.fill("#task-message", "the <b>report</b> is ready")
	first.fill("#task-wait", "1.5")
	first.click("#task-start")
	first.until(`document.querySelector('#tasks li[data-status=running] progress').value > 0`)
	before := ask[float64](first, `document.querySelector('#tasks progress').value`)
	first.until(fmt.Sprintf(`document.querySelector('#tasks progress').value > %v`, before))
	first.untilShown(1)
	first.until(`document.querySelector('#tasks li[data-status=done]')`)
	first.wantRows("1 the <b>report</b> is ready")
	server.until("ada", "the result is confirmed", func(s stream) bool { return s.Pending == 0 })
	idToken := ask[string](first, `JSON.parse(localStorage.getItem('restante.session')).idToken`)
	first.quiet()
	first.close()
	server.until("ada", "the closed tab is disconnected", func(s stream) bool { return !s.Connected })

	// While nobody looks: a task's result, messages of each JSON kind, and one
	// that expires.
	server.call("POST", server.page+"/process", idToken, map[string]any{"message": "while you were away", "wait": 0}, nil)
	server.until("ada", "the task's result is kept", func(s stream) bool { return s.Head == 2 })
	gone := server.publish("ada", "too late", time.Second)
	server.publish("ada", map[string]any{"order": 17}, 0)
	for n := 5; n <= 30; n++ {
		server.publish("ada", fmt.Sprintf("message %d", n), 0)
	}
	poll(t, func() string { return "the message with a ttl expires" }, func() bool {
		var message struct{ State string }
		server.call("GET", fmt.Sprintf("%s/v1/users/ada/messages/%d", server.gateway, gone), server.apiKey, nil, &message)
		return message.State == "expired"
	})

	second := openTab(t, profile, server.page)
	second.until(`document.querySelector('#user').dataset.userId === 'ada'`)
	second.untilShown(30)
	want := []string{"1 the <b>report</b> is ready", "2 while you were away", "gap 3-3", "4 {\n  \"order\": 17\n}"}
	for n := 5; n <= 30; n++ {
		want = append(want, fmt.Sprintf("%d message %d", n, n))
	}
	second.wantRows(want...)
	server.until("ada", "the gap and everything after it is confirmed", func(s stream) bool { return s.Pending == 0 })

	// A second window of the same browser gets what comes now as well.
	other := openTab(t, profile, server.page)
	other.untilState("connected")
	server.publish("ada", "for both", 0)
	second.untilShown(31)
	other.untilShown(31)
	other.quiet()
	other.close()
	second.quiet()
}

func TestDisconnectAndSignOut(t *testing.T) {
	t.Parallel()
	server := newServer(t, common.binary, [4]int{})
	server.createUser("bob", password)
	page := openTab(t, newProfile(t), server.page)
	page.signIn("bob")
	page.connect()
	server.publish("bob", "one", 0)
	page.untilShown(1)

	page.click("#disconnect")
	page.untilState("offline")
	server.until("bob", "disconnected", func(s stream) bool { return !s.Connected && s.Pending == 0 })
	server.publish("bob", "two", 0)
	// Who has disconnected stays so, also after a reload.
	page.do(chromedp.Reload())
	page.until(`!document.querySelector('#connect').disabled`)
	page.wantRows("1 one")
	page.connect()
	page.untilShown(2)
	page.wantRows("1 one", "2 two")

	page.click("#sign-out")
	page.until(`document.querySelector('#sign-in').checkVisibility() && !document.querySelector('#messages li')`)
	if left := ask[int](page, `localStorage.length`); left != 0 {
		t.Errorf("signed out, localStorage keeps %d entries", left)
	}
	server.until("bob", "signed out is disconnected", func(s stream) bool { return !s.Connected })

	// The next person at this machine is asked for a password.
	page.click("#sign-in")
	page.fill("#username", "bob")
	page.quiet()
	page.fill("#password", "Wrong-Passw0rd!")
	page.click("button[value=login]")
	page.until(`document.querySelector('[role=alert]')?.textContent.includes('password is wrong')`)
	if kept := ask[string](page, `document.querySelector('#username').value`); kept != "bob" {
		t.Errorf("after a wrong password the user name is %q", kept)
	}
	page.fill("#password", password)
	page.click("button[value=login]")
	page.until(`document.querySelector('#user')?.dataset.userId === 'bob'`)
	page.quiet("401 (Unauthorized)")
}

// A gateway that stops and starts again costs the user nothing.
func TestReconnectsAfterARestart(t *testing.T) {
	t.Parallel()
	server := newServer(t, common.binary, fixedPorts(t))
	server.createUser("cleo", password)
	page := openTab(t, newProfile(t), server.page)
	page.signIn("cleo")
	page.connect()
	server.publish("cleo", "before", 0)
	page.untilShown(1)
	server.until("cleo", "confirmed", func(s stream) bool { return s.Pending == 0 })

	server.stop()
	page.untilState("connecting")
	page.until(`/trying again/i.test(document.querySelector('#connection-detail').textContent)`)
	// The sample application is away too; that is said in words.
	page.click("#task-start")
	page.until(`document.querySelector('#notice').textContent.includes('cannot be reached')`)

	server.start()
	server.publish("cleo", "after", 0)
	page.untilShown(2)
	page.untilState("connected")
	page.wantRows("1 before", "2 after")
	page.quiet("ERR_CONNECTION_REFUSED", "WebSocket connection to")
}
