package volumes

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"

	"strata/pkg/linux/mount"
)

// The local driver's options.
const (
	optType   = "type"
	optFlags  = "o"
	optDevice = "device"
	optSize   = "size"
)

// checkOptions refuses options that the local driver does not know, or that are not
// complete, in dockerd's words.
func checkOptions(o map[string]string) error {
	for k := range o {
		switch k {
		case optType, optFlags, optDevice:
		case optSize:
			return fmt.Errorf("quota size requested but no quota support: %w", errdefs.ErrInvalidArgument)
		default:
			return fmt.Errorf("invalid option: %q: %w", k, errdefs.ErrInvalidArgument)
		}
	}
	if len(o) == 0 {
		return nil
	}
	for _, k := range []string{optType, optDevice} {
		if _, ok := o[k]; !ok {
			return fmt.Errorf("missing required option: %q: %w", k, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// mountOf returns the mount that a volume's options ask for.
func mountOf(o map[string]string) (mount.Mount, bool) {
	if len(o) == 0 {
		return mount.Mount{}, false
	}
	m := mount.Mount{Type: o[optType], Source: o[optDevice]}
	if o[optFlags] != "" {
		m.Options = strings.Split(o[optFlags], ",")
	}
	if m.Type == "none" && (slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")) {
		m.Type = "bind"
	}
	return m, true
}

// resolveAddress replaces a host's name in "addr=" of a network filesystem by an address: the
// kernel takes no names. nfs(5), mount.cifs(8).
func resolveAddress(m mount.Mount) (mount.Mount, error) {
	if !strings.HasPrefix(m.Type, "nfs") && m.Type != "cifs" {
		return m, nil
	}
	m.Options = slices.Clone(m.Options)
	for i, opt := range m.Options {
		name, ok := strings.CutPrefix(opt, "addr=")
		if !ok || net.ParseIP(name) != nil {
			continue
		}
		addr, err := net.ResolveIPAddr("ip", name)
		if err != nil {
			return m, fmt.Errorf("error resolving passed in network volume address: %w", err)
		}
		m.Options[i] = "addr=" + addr.String()
	}
	return m, nil
}

// mounted reports whether something is mounted on dir.
func mounted(dir string) (bool, error) {
	on, err := mountinfo.Mounted(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("look for a mount on %q: %w", dir, err)
	}
	return on, nil
}
