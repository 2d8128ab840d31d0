// Package selfexe makes the runtime's own binary unwritable through /proc/PID/exe.
//
// The child of package child leaves the binary behind when it executes its tail. Where
// it cannot (plan.Direct), or where a process with CAP_SYS_PTRACE over the host could
// look at the child before that, the runtime first executes itself again from a
// read-only, detached mount of its binary, or, unprivileged, from a sealed copy in
// memory: whoever opens /proc/PID/exe then opens that mount (CVE-2019-5736).
//
// Source: open_tree(2), mount_setattr(2), memfd_create(2).
package selfexe
