package supervisor

import (
	"testing"

	transfertypes "github.com/containerd/containerd/api/types/transfer"
)

func TestCredentialsAnswerTheirRegistryOnly(t *testing.T) {
	login := RegistryAuth{Username: "u", Password: "p"}
	for _, tt := range []struct {
		access RegistryAccess
		asks   string
		want   transfertypes.AuthType
	}{
		{RegistryAccess{Auth: login, Host: "docker.io"}, "registry-1.docker.io", transfertypes.AuthType_CREDENTIALS},
		{RegistryAccess{Auth: login, Host: "docker.io"}, "mirror.example", transfertypes.AuthType_NONE},
		{RegistryAccess{Auth: login, Host: "a:5000"}, "a:5000", transfertypes.AuthType_CREDENTIALS},
		{RegistryAccess{Auth: login, Host: "a:5000"}, "a:5001", transfertypes.AuthType_NONE},
		{RegistryAccess{Auth: RegistryAuth{IdentityToken: "t"}, Host: "a"}, "a", transfertypes.AuthType_REFRESH},
		{RegistryAccess{Auth: RegistryAuth{Header: "Bearer t"}, Host: "a"}, "a", transfertypes.AuthType_HEADER},
	} {
		if got := tt.access.answer(tt.asks).AuthType; got != tt.want {
			t.Errorf("%s asks for credentials of %s: %v, want %v", tt.asks, tt.access.Host, got, tt.want)
		}
	}
}
