package client

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

type platformSpec struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

func parsePlatform(s string) (platformSpec, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" || len(parts) > 3 {
			return platformSpec{}, fmt.Errorf("invalid platform %q: want os[/arch[/variant]]: %w", s, errdefs.ErrInvalidArgument)
		}
	}
	p := platformSpec{OS: parts[0]}
	if len(parts) > 1 {
		p.Architecture = parts[1]
	}
	if len(parts) > 2 {
		p.Variant = parts[2]
	}
	return p, nil
}

func tooOld(what, since, have string) error {
	return fmt.Errorf("%s requires API version %s, but the daemon API version is %s: %w", what, since, have, errdefs.ErrInvalidArgument)
}
