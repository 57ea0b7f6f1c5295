package identity

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Config says whose tokens are accepted. Only Issuer and Audiences must be set.
type Config struct {
	// Issuer is the URL of the users' issuer, exactly as it stands in iss and
	// in the issuer's own discovery document.
	Issuer string
	// Audiences of users' ID tokens: the client ids of the applications that
	// sign users in. A token needs one of them.
	Audiences []string
	// UserClaim is the claim that becomes the user id; default "sub". With
	// "email", addresses that the issuer has not verified are rejected: whoever
	// could enter another's address would read that user's messages.
	UserClaim string
	// Algorithms narrows down which of the algorithms that the issuer announces
	// may have signed a token, for users and publishers; default all of them. Only
	// asymmetric ones are possible.
	Algorithms []string
	// DiscoveryURL is where the issuer's discovery document is read, for an issuer
	// that has another name inside the network than outside; default Issuer with
	// /.well-known/openid-configuration. The document must name Issuer.
	DiscoveryURL string
	// KeysURL is where the issuer's keys are read; default what the discovery
	// document says. With it no discovery document is read.
	KeysURL string

	// PublisherIssuer is the publishers' issuer; default Issuer. DiscoveryURL and
	// KeysURL are those of Issuer only.
	PublisherIssuer string
	// PublisherAudiences of publishers' access tokens. Without any, publishers
	// have API keys only.
	PublisherAudiences []string
	// PublisherScope lets its bearer post; default "restante:publish".
	PublisherScope string
	// ReaderScope lets its bearer ask for the state of messages and users;
	// default "restante:read".
	ReaderScope string

	// PublisherClaims are the claims that list what a publisher may do: words or a
	// list of them. "realm_access.roles" is a claim inside a claim. Default scope
	// and scp.
	PublisherClaims []string
	// PublisherSubjects may post whatever their tokens' claims say, for issuers
	// that write no rights into tokens, such as Kubernetes.
	PublisherSubjects []string

	// RefetchInterval is the time between two fetches of an issuer's keys while
	// tokens with unknown keys keep coming; default 30 s. A few may follow at once. A
	// key that the issuer uses without having announced it before is accepted after
	// at most this time.
	RefetchInterval time.Duration
	// Timeout of one fetch, discovery and keys together; default 5 s.
	Timeout time.Duration
	// Transport for fetches; default is a new one, with proxies from the
	// environment.
	Transport http.RoundTripper
}

const (
	defaultRefetchInterval = 30 * time.Second
	defaultTimeout         = 5 * time.Second
)

// asymmetric is what Algorithms may hold: with any of these, to know the
// issuer's published keys is not enough to sign.
var asymmetric = []string{
	string(jose.RS256), string(jose.RS384), string(jose.RS512),
	string(jose.PS256), string(jose.PS384), string(jose.PS512),
	string(jose.ES256), string(jose.ES384), string(jose.ES512),
	string(jose.EdDSA),
}

// Validate returns nil or an error that names what is wrong. A server calls it
// when it starts: with a Config that does not pass, every check of a token ends
// with ErrUnavailable.
func (c Config) Validate() error {
	var errs []error
	if err := checkIssuer(c.Issuer); err != nil {
		errs = append(errs, fmt.Errorf("issuer: %w", err))
	}
	if c.PublisherIssuer != "" {
		if err := checkIssuer(c.PublisherIssuer); err != nil {
			errs = append(errs, fmt.Errorf("publisher issuer: %w", err))
		}
	}
	if len(c.Audiences) == 0 {
		errs = append(errs, errors.New("audiences: none given; name the client ids whose ID tokens are accepted"))
	}
	if slices.Contains(c.Audiences, "") || slices.Contains(c.PublisherAudiences, "") {
		errs = append(errs, errors.New("audiences: one of them is empty"))
	}
	for name, text := range map[string]string{"discovery": c.DiscoveryURL, "keys": c.KeysURL} {
		if u, err := url.Parse(text); text != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "") {
			errs = append(errs, fmt.Errorf("%s: %q is not an http or https URL", name, text))
		}
	}
	if slices.Contains(c.PublisherClaims, "") || slices.Contains(c.PublisherSubjects, "") {
		errs = append(errs, errors.New("publishers: one of the claims or subjects is empty"))
	}
	for _, alg := range c.Algorithms {
		if !slices.Contains(asymmetric, alg) {
			errs = append(errs, fmt.Errorf("algorithms: %q is not one of %v", alg, asymmetric))
		}
	}
	return errors.Join(errs...)
}

func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	switch {
	case err != nil:
		return err
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return fmt.Errorf("%q is not an http or https URL", issuer)
	case u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return errors.New("the URL must not have a query, a fragment or a user name")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.UserClaim == "" {
		c.UserClaim = "sub"
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = asymmetric
	}
	if c.PublisherIssuer == "" {
		c.PublisherIssuer = c.Issuer
	}
	if len(c.PublisherClaims) == 0 {
		c.PublisherClaims = []string{"scope", "scp"}
	}
	if c.PublisherScope == "" {
		c.PublisherScope = "restante:publish"
	}
	if c.ReaderScope == "" {
		c.ReaderScope = "restante:read"
	}
	if c.RefetchInterval <= 0 {
		c.RefetchInterval = defaultRefetchInterval
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	return c
}
