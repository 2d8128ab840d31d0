package supervisor

import (
	"context"
	"testing"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
)

func TestCredentialsAnswerTheirRegistryOnly(t *testing.T) {
	given := func(a RegistryAuth) AuthFunc {
		return func(_ context.Context, challenges []string) (RegistryAuth, error) {
			if len(challenges) != 1 || challenges[0] != "Basic" {
				t.Errorf("challenges %q", challenges)
			}
			return a, nil
		}
	}
	login := given(RegistryAuth{Username: "u", Password: "p"})
	failing := func(context.Context, []string) (RegistryAuth, error) {
		return RegistryAuth{}, errdefs.ErrUnauthenticated
	}
	for _, tt := range []struct {
		access RegistryAccess
		asks   string
		want   transfertypes.AuthType
	}{
		{RegistryAccess{Ask: login, Host: "docker.io"}, "registry-1.docker.io", transfertypes.AuthType_CREDENTIALS},
		{RegistryAccess{Ask: login, Host: "docker.io"}, "mirror.example", transfertypes.AuthType_NONE},
		{RegistryAccess{Ask: login, Host: "a:5000"}, "a:5000", transfertypes.AuthType_CREDENTIALS},
		{RegistryAccess{Ask: login, Host: "a:5000"}, "a:5001", transfertypes.AuthType_NONE},
		{RegistryAccess{Ask: given(RegistryAuth{IdentityToken: "t"}), Host: "a"}, "a", transfertypes.AuthType_REFRESH},
		{RegistryAccess{Ask: given(RegistryAuth{Header: "Bearer t"}), Host: "a"}, "a", transfertypes.AuthType_HEADER},
		{RegistryAccess{Ask: given(RegistryAuth{}), Host: "a"}, "a", transfertypes.AuthType_NONE},
	} {
		got, err := tt.access.answer(t.Context(), tt.asks, []string{"Basic"})
		if err != nil || got.AuthType != tt.want {
			t.Errorf("%s asks for credentials of %s: %v, %v, want %v", tt.asks, tt.access.Host, got, err, tt.want)
		}
	}
	got, err := RegistryAccess{Ask: failing, Host: "a"}.answer(t.Context(), "a", nil)
	if !errdefs.IsUnauthorized(err) || got.AuthType != transfertypes.AuthType_NONE {
		t.Errorf("a question that cannot be answered: %v, %v", got, err)
	}
}
