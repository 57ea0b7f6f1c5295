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

// upgrade tries to open a WebSocket, without a client library between, and
// returns what was answered. A connection that opens is closed again.
func upgrade(w *world, s *server, path, token string) answer {
	request, err := http.NewRequestWithContext(w.t.Context(), "GET", s.url+path+"?token="+token, nil)
	if err != nil {
		w.t.Errorf("request: %v", err)
		return answer{}
	}
	request.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAECAwQFBgcICQoLDA0ODw=="},
	}
	a, err := w.do(request)
	if err != nil {
		w.t.Errorf("%s: %v", path, err)
	}
	return a
}
