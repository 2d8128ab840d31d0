// Package harness runs a private Strata for a test: its own root, sockets and network
// namespace, the real binaries of STRATA_BIN, and at the end a look for what was left behind.
package harness
