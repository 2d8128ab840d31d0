package ocirun

import (
	"strata/pkg/linux/cgroups"
	"strata/pkg/linux/cgroups/systemd"
)

// scopes is the connection to systemd.
func scopes() cgroups.Scopes { return systemd.Scopes{} }
