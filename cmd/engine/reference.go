package main

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"

	"strata/pkg/dockerconfig"
)

const hubDomain = "docker.io"

func parseReference(s string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, err // names the rule that s breaks
	}
	return named, nil
}

// splitReference cuts a name into repository and tag; the tag may be empty. A digest is refused.
func splitReference(s string) (repository, tag string, err error) {
	named, err := parseReference(s)
	if err != nil {
		return "", "", fmt.Errorf("Error parsing reference: %q is not a valid repository/tag: %w", s, err) // docker's words
	}
	if _, ok := named.(reference.Digested); ok {
		return "", "", fmt.Errorf("reference %q: a digest cannot be given here: %w", s, errdefs.ErrInvalidArgument)
	}
	if tagged, ok := named.(reference.Tagged); ok {
		tag = tagged.Tag()
	}
	return reference.FamiliarName(named), tag, nil
}

// withTag completes a name with the tag that a pull takes by default.
func withTag(s string) string {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return s
	}
	return reference.FamiliarString(reference.TagNameOnly(named))
}

// credentialServer is the key under which the credential for an image is kept.
func credentialServer(named reference.Named) string {
	if domain := reference.Domain(named); domain != hubDomain {
		return domain
	}
	return dockerconfig.HubServer
}
