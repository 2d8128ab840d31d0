package registry

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// TokenQuestion is what a registry wants to see: a token of the service at Realm.
type TokenQuestion struct {
	Realm, Service string
	Scopes         []string // "repository:NAME:pull,push"
}

// Asked returns what the values of WWW-Authenticate ask for; ok is false if that is no token.
func Asked(challenges []string) (q TokenQuestion, ok bool) {
	for _, c := range parseChallenges(challenges) {
		if c.scheme == "bearer" && c.params["realm"] != "" {
			return TokenQuestion{c.params["realm"], c.params["service"], strings.Fields(c.params["scope"])}, true
		}
	}
	return TokenQuestion{}, false
}

// FetchToken asks a token service in the name of cred, and returns when the token ends. hc,
// if not nil, is used for that.
func FetchToken(ctx context.Context, hc *http.Client, q TokenQuestion, cred Credential) (value string, expires time.Time, err error) {
	if hc == nil {
		hc = http.DefaultClient
	}
	c := challenge{scheme: "bearer", params: map[string]string{"realm": q.Realm, "service": q.Service}}
	t, _, err := fetchToken(ctx, hc, c, cred, tokenRequest{scopes: q.Scopes})
	return t.value, t.expires, err
}
