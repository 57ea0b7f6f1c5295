package e2e

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"restante/internal/testdb"
)

// TestOneTokenOneConnection has fifty clients race with one token, over three
// replicas.
func TestOneTokenOneConnection(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	replicas := []*server{w.server(), w.server(), w.server()}
	idToken := w.idToken("ann")
	for round := range 6 {
		path := []string{"/v1/connect", "/ws"}[round%2]
		token, err := replicas[round%3].token(idToken)
		if err != nil {
			t.Fatal(err)
		}
		const redeemers = 50
		answers := make([]answer, redeemers)
		begin := make(chan struct{})
		var group sync.WaitGroup
		for i := range redeemers {
			group.Go(func() {
				<-begin
				answers[i] = upgrade(w, replicas[i%3], path, token)
			})
		}
		close(begin)
		group.Wait()
		admitted := 0
		for _, a := range answers {
			if a.status == http.StatusSwitchingProtocols {
				admitted++
				continue
			}
			if p := a.problem(t, http.StatusUnauthorized); !strings.Contains(p.Detail, "used before") {
				t.Errorf("the loser is told: %s", p.Detail)
			}
		}
		if admitted != 1 {
			t.Errorf("round %d, %s: %d of %d got in, want 1", round, path, admitted, redeemers)
		}
	}
	redeemed, refused := 0.0, 0.0
	for _, s := range replicas {
		redeemed += s.metric("restante_tokens_redeemed_total", `result="ok"`)
		refused += s.metric("restante_tokens_redeemed_total", `result="used"`)
	}
	if redeemed != 6 || refused != 6*49 {
		t.Errorf("replicas count %v redeemed and %v refused tokens", redeemed, refused)
	}
}

// TestWhatABrowserDoes: it tells its page's origin, and is refused without using
// the token up. It may offer the token as a subprotocol, alone too, and fails the
// connection if the server does not choose it.
func TestWhatABrowserDoes(t *testing.T) {
	parallel(t)
	w := newWorld(t, testdb.New(t).URL)
	s := w.server("-allowed-origins", "https://app.example")
	token, err := s.token(w.idToken("ann"))
	if err != nil {
		t.Fatal(err)
	}
	foreign := upgrade(w, s, "/v1/connect", token, "Origin", "https://evil.example")
	if p := foreign.problem(t, http.StatusForbidden); !strings.Contains(p.Detail, "not used up") {
		t.Errorf("a page of a foreign origin is told: %s", p.Detail)
	}
	own := upgrade(w, s, "/v1/connect", token, "Origin", "https://app.example")
	if own.status != http.StatusSwitchingProtocols {
		t.Errorf("the page of an allowed origin, with the same token: %d %s", own.status, own.body)
	}

	if token, err = s.token(w.idToken("ann")); err != nil {
		t.Fatal(err)
	}
	offer := "restante.token." + token
	a := upgrade(w, s, "/v1/connect", "", "Origin", "https://app.example", "Sec-WebSocket-Protocol", offer)
	if chosen := a.header.Get("Sec-WebSocket-Protocol"); a.status != http.StatusSwitchingProtocols || chosen != offer {
		t.Errorf("with the token as the only subprotocol: %d, chosen %q", a.status, chosen)
	}
}

// upgrade tries to open a WebSocket, without a client library between, and
// returns what was answered. A connection that opens is closed again.
func upgrade(w *world, s *server, path, token string, headers ...string) answer {
	request, err := http.NewRequestWithContext(w.t.Context(), "GET", s.url+path+"?token="+token, nil)
	if err != nil {
		w.t.Errorf("request: %v", err)
		return answer{}
	}
	request.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAECAwQFBgcICQoLDA0ODw=="},
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	a, err := w.do(request)
	if err != nil {
		w.t.Errorf("%s: %v", path, err)
	}
	return a
}
