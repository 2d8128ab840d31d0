package spec

import (
	"os"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// securityOpt is a parsed HostConfig.SecurityOpt.
type securityOpt struct {
	noNewPrivileges bool
	seccomp         string // "", "unconfined", "builtin" or a profile as JSON
	apparmor        string
	label           []string
}

// ParseSecurityOpt checks the options of a container. The error is of class
// ErrInvalidArgument, with dockerd's words.
func ParseSecurityOpt(opts []string) error {
	_, err := parseSecurityOpt(opts)
	return err
}

// NoNewPrivileges reports whether a container's processes may never gain privileges.
func NoNewPrivileges(h *container.HostConfig) bool {
	so, err := parseSecurityOpt(h.SecurityOpt)
	return err == nil && so.noNewPrivileges
}

func parseSecurityOpt(opts []string) (securityOpt, error) {
	var so securityOpt
	for _, o := range opts {
		if o == "no-new-privileges" {
			so.noNewPrivileges = true
			continue
		}
		if o == "disable" {
			so.label = append(so.label, o)
			continue
		}
		k, v, ok := strings.Cut(o, "=")
		if !ok {
			k, v, ok = strings.Cut(o, ":")
		}
		if !ok {
			return so, invalid("invalid --security-opt 1: %q", o)
		}
		switch k {
		case "label":
			so.label = append(so.label, v)
		case "apparmor":
			so.apparmor = v
		case "seccomp":
			so.seccomp = v
		case "no-new-privileges":
			switch v {
			case "true", "1":
				so.noNewPrivileges = true
			case "false", "0":
				so.noNewPrivileges = false
			default:
				return so, invalid("invalid --security-opt 2: %q", o)
			}
		case "writable-cgroups":
		default:
			return so, invalid("invalid --security-opt 2: %q", o)
		}
	}
	return so, nil
}

func addSecurity(s *specs.Spec, h *container.HostConfig) error {
	so, err := parseSecurityOpt(h.SecurityOpt)
	if err != nil {
		return err
	}
	s.Process.NoNewPrivileges = so.noNewPrivileges
	s.Process.ApparmorProfile = AppArmorProfile(h)
	switch {
	case so.seccomp == "unconfined", h.Privileged && so.seccomp == "", !SeccompSupported():
		return nil
	case so.seccomp == "", so.seccomp == "builtin":
		s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s)
	default:
		s.Linux.Seccomp, err = seccomp.LoadProfile(so.seccomp, s)
	}
	if err != nil {
		return invalid("%v", err)
	}
	return nil
}

// SeccompSupported reports whether the kernel has seccomp filters.
func SeccompSupported() bool {
	_, err := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	return err == nil
}

// DefaultMaskedPaths are hidden from a container.
//
// Source: moby daemon/pkg/oci/defaults.go.
func DefaultMaskedPaths() []string {
	return []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
}

// DefaultReadonlyPaths cannot be written by a container.
func DefaultReadonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}
