package main

import (
	"fmt"

	"github.com/containerd/errdefs"

	"strata/pkg/dockerconfig"
	"strata/pkg/imageref"
)

// splitReference cuts a name into repository and tag; the tag may be empty. A digest is refused.
func splitReference(s string) (repository, tag string, err error) {
	named, err := imageref.Parse(s)
	if err != nil {
		return "", "", fmt.Errorf("Error parsing reference: %q is not a valid repository/tag: %w", s, err) // docker's words
	}
	if named.Digest != "" {
		return "", "", fmt.Errorf("reference %q: a digest cannot be given here: %w", s, errdefs.ErrInvalidArgument)
	}
	return named.Familiar(), named.Tag, nil
}

// withTag completes a name with the tag that a pull takes by default.
func withTag(s string) string {
	named, err := imageref.Parse(s)
	if err != nil {
		return s
	}
	return named.Tagged().FamiliarString()
}

// credentialServer is the key under which the credential for an image is kept.
func credentialServer(named imageref.Name) string {
	if named.Domain != imageref.Hub {
		return named.Domain
	}
	return dockerconfig.HubServer
}
