package buildclient

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"strata/pkg/buildkit/sessionpb"
	"strata/pkg/registry"
)

// authServer serves tokens, and credentials to a daemon that cannot do with those.
type authServer struct {
	sessionpb.UnimplementedAuthServer
	auth func(ctx context.Context, host string) (string, string, error)
	seed []byte // of the keys that prove a token to be ours
}

func newAuthServer(auth func(ctx context.Context, host string) (string, string, error)) *authServer {
	seed := make([]byte, 32)
	_, _ = rand.Read(seed) // never fails
	return &authServer{auth: auth, seed: seed}
}

// Credentials implements sessionpb.AuthServer.
func (s *authServer) Credentials(ctx context.Context, req *sessionpb.CredentialsRequest) (*sessionpb.CredentialsResponse, error) {
	user, secret, err := s.auth(ctx, req.Host)
	if err != nil {
		return nil, status.Errorf(codes.Unknown, "credentials for %s: %v", req.Host, err)
	}
	return &sessionpb.CredentialsResponse{Username: user, Secret: secret}, nil
}

// FetchToken implements sessionpb.AuthServer.
func (s *authServer) FetchToken(ctx context.Context, req *sessionpb.FetchTokenRequest) (*sessionpb.FetchTokenResponse, error) {
	user, secret, err := s.auth(ctx, req.Host)
	if err != nil {
		return nil, status.Errorf(codes.Unknown, "credentials for %s: %v", req.Host, err)
	}
	cred := registry.Credential{Username: user, Password: secret}
	if user == "" {
		cred = registry.Credential{RefreshToken: secret}
	}
	now := time.Now()
	value, expires, err := registry.FetchToken(ctx, nil, registry.TokenQuestion{Realm: req.Realm, Service: req.Service, Scopes: req.Scopes}, cred)
	if err != nil {
		return nil, status.Errorf(codes.Unauthenticated, "%v", err)
	}
	return &sessionpb.FetchTokenResponse{Token: value, IssuedAt: now.Unix(), ExpiresIn: int64(expires.Sub(now).Seconds())}, nil
}

// key proves to a daemon that a token which it was given before was given by the same user:
// it is another one for each host, daemon (salt) and run of this program, but the same for all
// who are nobody. Source: moby/buildkit session/auth/authprovider "getAuthorityKey".
func (s *authServer) key(ctx context.Context, host string, salt []byte) (ed25519.PrivateKey, error) {
	_, secret, err := s.auth(ctx, host)
	if err != nil {
		return nil, status.Errorf(codes.Unknown, "credentials for %s: %v", host, err)
	}
	mac := hmac.New(sha256.New, salt)
	if secret != "" {
		mac.Write(s.seed)
		mac.Write([]byte(host))
	}
	return ed25519.NewKeyFromSeed(mac.Sum(nil)), nil
}

// GetTokenAuthority implements sessionpb.AuthServer.
func (s *authServer) GetTokenAuthority(ctx context.Context, req *sessionpb.GetTokenAuthorityRequest) (*sessionpb.GetTokenAuthorityResponse, error) {
	key, err := s.key(ctx, req.Host, req.Salt)
	if err != nil {
		return nil, err
	}
	return &sessionpb.GetTokenAuthorityResponse{PublicKey: key[ed25519.SeedSize:]}, nil
}

// VerifyTokenAuthority implements sessionpb.AuthServer: a signature, and after it what is
// signed.
func (s *authServer) VerifyTokenAuthority(ctx context.Context, req *sessionpb.VerifyTokenAuthorityRequest) (*sessionpb.VerifyTokenAuthorityResponse, error) {
	key, err := s.key(ctx, req.Host, req.Salt)
	if err != nil {
		return nil, err
	}
	return &sessionpb.VerifyTokenAuthorityResponse{Signed: append(ed25519.Sign(key, req.Payload), req.Payload...)}, nil
}
