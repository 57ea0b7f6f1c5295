package identity

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"restante/internal/events"
)

// Scopes of a [Publisher], the same words as those of API keys.
const (
	scopePublish = "publish"
	scopeRead    = "read"
)

// Publisher is the back end to which an access token was issued.
type Publisher struct {
	ID     string   // azp, client_id, appid, cid or sub: the first there is; valid by events.ValidUserID
	Scopes []string // of "publish" and "read"; none when the token has neither scope
}

// Publisher checks a publisher's access token, as from OAuth's client
// credentials grant. It returns ErrRejected, with a [Reason], or ErrUnavailable.
// A token without any scope of ours is no error: what its bearer may do is in
// Scopes, and that is nothing.
func (v *Verifier) Publisher(ctx context.Context, accessToken string) (p Publisher, err error) {
	defer func() { v.metrics.countCheck(kindPublisher, err) }()
	if len(v.cfg.PublisherAudiences) == 0 {
		return Publisher{}, fmt.Errorf("check access token: %w", rejection{reason: ReasonDisabled})
	}
	t, err := v.verify(ctx, v.publishers, accessToken)
	if err != nil {
		return Publisher{}, fmt.Errorf("check access token: %w", err)
	}
	if why := v.checkPublisherUse(t); why != "" {
		return Publisher{}, fmt.Errorf("check access token: %w", rejection{reason: why})
	}
	for _, name := range []string{"azp", "client_id", "appid", "cid", "sub"} {
		if id, ok := t.claims.text(name); ok {
			p.ID = id
			break
		}
	}
	if events.ValidUserID(p.ID) != nil {
		return Publisher{}, fmt.Errorf("check access token: %w", rejection{reason: ReasonPublisherID})
	}
	var granted []string
	for _, claim := range v.cfg.PublisherClaims {
		granted = append(granted, t.claims.words(claim)...)
	}
	subject, _ := t.claims.text("sub")
	if slices.Contains(granted, v.cfg.PublisherScope) || slices.Contains(v.cfg.PublisherSubjects, subject) {
		p.Scopes = append(p.Scopes, scopePublish)
	}
	if slices.Contains(granted, v.cfg.ReaderScope) {
		p.Scopes = append(p.Scopes, scopeRead)
	}
	return p, nil
}

// Wanted says in words what an access token has to carry for one of the scopes.
func (v *Verifier) Wanted(scope string) string {
	name := v.cfg.PublisherScope
	if scope == scopeRead {
		name = v.cfg.ReaderScope
	}
	return fmt.Sprintf("%s in its claim %s", name, strings.Join(v.cfg.PublisherClaims, " or "))
}

func (v *Verifier) checkPublisherUse(t verified) Reason {
	if use, ok := t.claims.text("token_use"); ok && use != "access" {
		return ReasonTokenUse
	}
	if strings.HasSuffix(t.kind, "+jwt") && t.kind != "at+jwt" && t.kind != "application/at+jwt" { // RFC 9068
		return ReasonTokenUse
	}
	audience := t.audience
	if len(audience) == 0 {
		// Amazon Cognito writes no aud into access tokens, but who asked for it.
		if client, ok := t.claims.text("client_id"); ok {
			audience = []string{client}
		}
	}
	if !slices.ContainsFunc(v.cfg.PublisherAudiences, func(a string) bool { return slices.Contains(audience, a) }) {
		return ReasonAudience
	}
	return ""
}
