package identity

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"restante/internal/events"
)

// User is who an ID token names.
type User struct {
	ID       string // valid by events.ValidUserID
	Username string // for display; the ID when the token has no name
}

// usernameClaims are looked through for something to show; Amazon Cognito has
// only the second of them, some issuers only the last.
var usernameClaims = []string{"preferred_username", "cognito:username", "name", "email"}

// User checks a user's ID token. It returns ErrRejected, with a [Reason], or
// ErrUnavailable.
func (v *Verifier) User(ctx context.Context, idToken string) (u User, err error) {
	defer func() { v.metrics.countCheck(kindUser, err) }()
	t, err := v.verify(ctx, v.users, idToken)
	if err != nil {
		return User{}, fmt.Errorf("check ID token: %w", err)
	}
	if why := v.checkUse(t); why != "" {
		return User{}, fmt.Errorf("check ID token: %w", rejection{reason: why})
	}
	id, ok := t.claims.text(v.cfg.UserClaim)
	if !ok || events.ValidUserID(id) != nil {
		return User{}, fmt.Errorf("check ID token: %w", rejection{reason: ReasonUserID})
	}
	if v.cfg.UserClaim == "email" && !t.claims.yes("email_verified") {
		return User{}, fmt.Errorf("check ID token: %w", rejection{reason: ReasonUnverified})
	}
	u = User{ID: id, Username: id}
	for _, name := range usernameClaims {
		// A name follows the same rules as an id, because it is shown in the
		// same places.
		if s, ok := t.claims.text(name); ok && events.ValidUserID(s) == nil {
			u.Username = s
			break
		}
	}
	return u, nil
}

// checkUse makes sure that the token was made to tell an application of ours who
// signed in. An access token says what its bearer may do, and is handed to other
// services, any of which could present it here.
func (v *Verifier) checkUse(t verified) Reason {
	if use, ok := t.claims.text("token_use"); ok && use != "id" {
		return ReasonTokenUse
	}
	// RFC 8725, section 3.11: at+jwt, logout+jwt and so on say what they are; ID
	// tokens do not.
	if strings.HasSuffix(t.kind, "+jwt") {
		return ReasonTokenUse
	}
	if t.claims.has("events") { // a logout token from before it had a typ
		return ReasonTokenUse
	}
	// Keycloak says it in a claim: ID, Bearer, Refresh, Offline, Logout.
	if kind, ok := t.claims.text("typ"); ok && !strings.EqualFold(kind, "ID") {
		return ReasonTokenUse
	}
	// Access tokens say what may be done with them: Auth0, Keycloak and RFC 9068 in
	// scope, Entra and Okta in scp. ID tokens do not.
	if t.claims.has("scope") || t.claims.has("scp") {
		return ReasonTokenUse
	}
	if !slices.ContainsFunc(v.cfg.Audiences, func(a string) bool { return slices.Contains(t.audience, a) }) {
		return ReasonAudience
	}
	return ""
}
