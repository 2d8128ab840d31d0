package ocirun

import "strata/pkg/linux/cgroups"

// scopes is the connection to systemd.
func scopes() cgroups.Scopes { return nil }
