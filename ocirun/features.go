package ocirun

import (
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"strata/ocirun/internal/plan"
	"strata/pkg/linux/caps"
	"strata/pkg/linux/seccompbpf"
)

// features prints what this runtime can do, whatever the host can.
//
// Source: runtime-spec v1.3 features.md, features-linux.md.
func (a *app) features(args []string) error {
	if err := unexpected("features", args); err != nil {
		return err
	}
	yes, no := new(bool), new(bool)
	*yes = true
	f := features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specVersion,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  plan.KnownMountOptions(),
		Annotations: map[string]string{
			"org.opencontainers.runc.version": runcVersion,
			"io.strata.ocirun.version":        Version,
			"io.strata.ocirun.commit":         Commit,
		},
		PotentiallyUnsafeConfigAnnotations: []string{"bundle", "org.systemd.property.", "org.criu.config"},
	}
	systemd := scopes() != nil
	seccomp := seccompbpf.Native() != ""
	f.Linux = &features.Linux{
		Namespaces:   []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"},
		Capabilities: caps.Known(),
		Cgroup:       &features.Cgroup{V1: yes, V2: yes, Systemd: &systemd, SystemdUser: &systemd, Rdma: yes},
		Seccomp: &features.Seccomp{
			Enabled: &seccomp,
			Actions: []string{
				"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
				"SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
			},
			Operators: []string{
				"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
			},
			Archs: seccompbpf.KnownArchitectures(),
			KnownFlags: []string{
				"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
			},
			SupportedFlags: []string{
				"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
			},
		},
		Apparmor: &features.Apparmor{Enabled: yes},
		Selinux:  &features.Selinux{Enabled: yes},
		IntelRdt: &features.IntelRdt{Enabled: no},
		MemoryPolicy: &features.MemoryPolicy{
			Modes: []string{
				"MPOL_BIND", "MPOL_DEFAULT", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE",
			},
			Flags: []string{"MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"},
		},
		MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: yes}},
		NetDevices:      &features.NetDevices{Enabled: no},
	}
	return a.printJSON(f, "    ")
}
