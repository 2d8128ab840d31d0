package httpapi

import (
	"testing"

	"github.com/moby/moby/api/types/container"
)

func TestCommittedConfigIsTheContainersWithTheWishes(t *testing.T) {
	have := &container.Config{Hostname: "h", Env: []string{"A=1", "B=2"}, Cmd: []string{"sh"}, Labels: map[string]string{"x": "1"}, WorkingDir: "/w", OpenStdin: true}
	for _, tt := range []struct {
		name string
		wish *container.Config
		want string
	}{
		{"no wish", nil, `{"Env":["A=1","B=2"],"Cmd":["sh"],"WorkingDir":"/w","Labels":{"x":"1"}}`},
		{"empty wish", &container.Config{}, `{"Env":["A=1","B=2"],"Cmd":["sh"],"WorkingDir":"/w","Labels":{"x":"1"}}`},
		{"by key and by field", &container.Config{Env: []string{"B=3"}, Cmd: []string{"top"}, Labels: map[string]string{"y": "2"}}, `{"Env":["A=1","B=3"],"Cmd":["top"],"WorkingDir":"/w","Labels":{"x":"1","y":"2"}}`},
	} {
		if got, err := committed(have, tt.wish); err != nil || string(got) != tt.want {
			t.Errorf("%s: committed = %s, %v; want %s", tt.name, got, err, tt.want)
		}
	}
}
