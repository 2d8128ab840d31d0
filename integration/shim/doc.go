// Package shim runs our shim below the stock containerd: the daemon and its client ctr
// come from the system, with a root and sockets of the test's own; the shim and the
// runtime are those of STRATA_BIN.
package shim
