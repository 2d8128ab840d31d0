package seccompbpf

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Return values of a filter. Source: seccomp(2).
const (
	retKillProcess = 0x80000000
	retKillThread  = 0x00000000
	retTrap        = 0x00030000
	retErrno       = 0x00050000
	retNotify      = 0x7fc00000
	retTrace       = 0x7ff00000
	retLog         = 0x7ffc0000
	retAllow       = 0x7fff0000

	eperm  = 1
	enosys = 38

	retMask = 0xffff0000
)

const auditX8664 = 0xc000003e

// action returns the filter value of an action. errno is the data of ERRNO and TRACE;
// nil means EPERM.
func action(a specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(eperm)
	if errno != nil {
		if *errno > 0xffff {
			return 0, fmt.Errorf("errno %d: %w", *errno, errdefs.ErrInvalidArgument)
		}
		data = uint32(*errno)
		if a != specs.ActErrno && a != specs.ActTrace {
			return 0, fmt.Errorf("action %s takes no errno: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return retKillThread, nil
	case specs.ActKillProcess:
		return retKillProcess, nil
	case specs.ActTrap:
		return retTrap, nil
	case specs.ActErrno:
		return retErrno | data, nil
	case specs.ActTrace:
		return retTrace | data, nil
	case specs.ActAllow:
		return retAllow, nil
	case specs.ActLog:
		return retLog, nil
	case specs.ActNotify:
		return retNotify, nil
	}
	return 0, fmt.Errorf("action %q: %w", a, errdefs.ErrInvalidArgument)
}

// denies reports whether calls that a library tries should fail with ENOSYS rather
// than with ret: a tracer or a log lets them through or answers by itself.
func denies(ret uint32) bool {
	switch ret & retMask {
	case retAllow, retLog, retTrace:
		return false
	}
	return true
}

// flags translates filter flags. Without a list the default is SPEC_ALLOW, as runc
// has it: the speculation mitigations cost more than they give in a container.
func flags(list []specs.LinuxSeccompFlag) (uint32, error) {
	if list == nil {
		return FlagSpecAllow, nil
	}
	var out uint32
	for _, f := range list {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC": // one thread: nothing to synchronise
		case specs.LinuxSeccompFlagLog:
			out |= FlagLog
		case specs.LinuxSeccompFlagSpecAllow:
			out |= FlagSpecAllow
		case specs.LinuxSeccompFlagWaitKillableRecv:
			out |= FlagWaitKillableRecv
		default:
			return 0, fmt.Errorf("seccomp flag %q: %w", f, errdefs.ErrInvalidArgument)
		}
	}
	return out, nil
}

// KnownArchitectures are the words that a profile may use; filters are made for the
// ones that the machine can run.
func KnownArchitectures() []string {
	return []string{
		"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_M68K", "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64",
		"SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PARISC",
		"SCMP_ARCH_PARISC64", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64", "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390",
		"SCMP_ARCH_S390X", "SCMP_ARCH_SH", "SCMP_ARCH_SHEB", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64",
	}
}

func known(a specs.Arch) bool {
	return slices.Contains(KnownArchitectures(), string(a))
}
