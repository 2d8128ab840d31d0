// Package ocirun_test drives the built ocirun binary as its callers do, on bundles
// with busybox as their root filesystem: life cycle, exec, terminals, hooks, limits,
// and attacks, one test for each defence. It imports nothing of the runtime.
//
// The tests need root, /bin/busybox (static) and a writable cgroup hierarchy.
package ocirun
