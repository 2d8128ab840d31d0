package session

import (
	"context"
	"crypto/rand"
	"slices"
	"sync"

	"github.com/containerd/errdefs"

	"strata/engined/internal/images"
	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/registry"
)

// dockerHub are the names of one registry: what references say, and what credentials are
// kept under.
const dockerHub, dockerHubRegistry = "docker.io", "registry-1.docker.io"

// AuthRequest is the question of a registry, who is there.
type AuthRequest struct {
	Host       string
	Challenges []string // values of WWW-Authenticate
	Scopes     []string // to be asked for beyond those of the challenges
}

// Auth returns the user's answer to a registry; none is no error. Of a registry that wants a
// token the client is asked for one, so that the password stays there.
func (s *Session) Auth(ctx context.Context, r AuthRequest) (images.Auth, error) {
	if !s.Offers(sessionpb.Auth_Credentials_FullMethodName) {
		return images.Auth{}, nil
	}
	if r.Host == dockerHub {
		r.Host = dockerHubRegistry
	}
	ctx, stop := s.bind(ctx)
	defer stop()
	client := sessionpb.NewAuthClient(s.cc)
	if q, ok := registry.Asked(r.Challenges); ok && s.fetchesTokens(ctx, client, r.Host) {
		q.Scopes = append(q.Scopes, r.Scopes...)
		slices.Sort(q.Scopes)
		t, err := client.FetchToken(ctx, &sessionpb.FetchTokenRequest{
			ClientID: "strata", Host: r.Host, Realm: q.Realm, Service: q.Service, Scopes: slices.Compact(q.Scopes),
		})
		if err = s.wrap(ctx, "token for "+r.Host, err); !errdefs.IsNotImplemented(err) {
			return images.Auth{RegistryToken: t.GetToken()}, err
		}
	}
	c, err := client.Credentials(ctx, &sessionpb.CredentialsRequest{Host: r.Host})
	if err = s.wrap(ctx, "credentials for "+r.Host, err); errdefs.IsNotFound(err) || errdefs.IsNotImplemented(err) {
		return images.Auth{}, nil
	}
	if err != nil {
		return images.Auth{}, err
	}
	if c.Username == "" {
		return images.Auth{IdentityToken: c.Secret}, nil
	}
	return images.Auth{Username: c.Username, Password: c.Secret}, nil
}

// salt makes the keys of GetTokenAuthority others for each run of the engine.
var salt = sync.OnceValue(func() []byte {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails
	return b
})

// fetchesTokens reports whether the client asks token services itself. A user can forbid it;
// then the client has no key that would prove a token to be the user's. The key itself is of no
// use here: no build is given the token of another.
func (s *Session) fetchesTokens(ctx context.Context, client sessionpb.AuthClient, host string) bool {
	if !s.Offers(sessionpb.Auth_FetchToken_FullMethodName) {
		return false
	}
	_, err := client.GetTokenAuthority(ctx, &sessionpb.GetTokenAuthorityRequest{Host: host, Salt: salt()})
	return err == nil
}
