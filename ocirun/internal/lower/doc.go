// Package lower turns the operations of a plan into the child's program: system calls
// with registers, and the tail.
//
// It owns how each operation is done safely. Inside the rootfs nothing takes a path
// string without a directory's descriptor: a path is resolved by openat2(2) with
// RESOLVE_IN_ROOT and without magic links, and what it gives (a descriptor) is what is
// mounted on, so that a symlink that an image, or another container sharing a volume,
// puts there or swaps meanwhile cannot lead outside (CVE-2021-30465, CVE-2024-45310,
// CVE-2025-52565, CVE-2026-41579). /proc files are reached through the descriptor of
// the host's own /proc (CVE-2019-16884, CVE-2025-52881). The null device that masks
// files is the host's, and is checked (CVE-2025-31133).
//
// It refuses to know where descriptors come from: the parent opens them (Fds). Start
// reading at lower.go; files are grouped as the operations are in package plan.
package lower
