package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
)

// provider is what msg needs of an issuer's discovery document.
type provider struct {
	Issuer        string   `json:"issuer"`
	TokenEndpoint string   `json:"token_endpoint"`
	Grants        []string `json:"grant_types_supported"`
}

// discover reads the issuer's own description of itself.
func discover(ctx context.Context, s service) (provider, error) {
	var p provider
	err := s.call(ctx, request{method: http.MethodGet, path: "/.well-known/openid-configuration"}, &p)
	if err != nil {
		return p, err
	}
	if strings.TrimRight(p.Issuer, "/") != s.base || p.TokenEndpoint == "" {
		return p, hint(fmt.Errorf("what answers at %s calls itself %q", s.base, p.Issuer),
			"Set RESTANTE_ISSUER to exactly the issuer's own name.")
	}
	return p, nil
}
