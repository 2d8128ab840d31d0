package spec

import (
	"slices"
	"strings"

	"github.com/moby/sys/capability"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCaps are the capabilities of a container that asks for nothing.
//
// Source: moby daemon/pkg/oci/caps/defaults.go.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// Capabilities returns the sets of a process. Privileged means all that this daemon may
// give. Unknown names are of class ErrInvalidArgument, with dockerd's words.
func Capabilities(privileged bool, add, drop []string) (*specs.LinuxCapabilities, error) {
	list, err := capList(privileged, add, drop)
	if err != nil {
		return nil, err
	}
	return &specs.LinuxCapabilities{Bounding: list, Effective: list, Permitted: list}, nil
}

func capList(privileged bool, add, drop []string) ([]string, error) {
	known := knownCaps()
	adds, err := normalizeCaps("CapAdd", add, known)
	if err != nil {
		return nil, err
	}
	drops, err := normalizeCaps("CapDrop", drop, known)
	if err != nil {
		return nil, err
	}
	switch {
	case privileged, slices.Contains(adds, "ALL") && len(drops) == 0:
		return grantable(), nil
	case slices.Contains(adds, "ALL"):
		return slices.DeleteFunc(grantable(), func(c string) bool { return slices.Contains(drops, c) && !slices.Contains(adds, c) }), nil
	}
	var out []string
	if !slices.Contains(drops, "ALL") {
		for _, c := range defaultCaps {
			if !slices.Contains(drops, c) {
				out = append(out, c)
			}
		}
	}
	for _, c := range adds {
		if !slices.Contains(out, c) {
			out = append(out, c)
		}
	}
	return out, nil
}

func normalizeCaps(field string, list, known []string) ([]string, error) {
	var out []string
	for _, c := range list {
		name := strings.ToUpper(c)
		if name == "ALL" {
			out = append(out, name)
			continue
		}
		if !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if !slices.Contains(known, name) {
			return nil, invalid("invalid %s: unknown capability: %q", field, c)
		}
		out = append(out, name)
	}
	return out, nil
}

// ValidateCaps checks the names in add and drop.
func ValidateCaps(add, drop []string) error {
	_, err := capList(false, add, drop)
	return err
}

func knownCaps() []string {
	var out []string
	for _, c := range capability.ListKnown() {
		out = append(out, "CAP_"+strings.ToUpper(c.String()))
	}
	return out
}

// grantable returns the capabilities that the kernel has and this process may pass on.
func grantable() []string {
	supported, err := capability.ListSupported()
	if err != nil {
		supported = capability.ListKnown()
	}
	self, err := capability.NewPid2(0)
	if err == nil {
		err = self.Load()
	}
	var out []string
	for _, c := range supported {
		if err == nil && !self.Get(capability.BOUNDING, c) {
			continue
		}
		out = append(out, "CAP_"+strings.ToUpper(c.String()))
	}
	return out
}
