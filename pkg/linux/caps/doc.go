// Package caps names Linux capabilities and holds sets of them.
//
// It owns the table of names and the meaning of a set as a bit mask. It changes no
// process: the runtime's child does that with system calls prepared from these masks.
//
// Source: capabilities(7); Linux include/uapi/linux/capability.h.
package caps
