// Package seccomp keeps compiled filters and hands listeners to their agents.
//
// A profile is compiled once: the program is kept in the runtime's root under a hash
// of the profile's text, together with that text, which is compared, so that a
// collision costs a compilation and nothing else. A container has a link to its
// filter, for exec.
//
// File: magic, flags, length of the profile, profile, instructions, all in host order.
package seccomp
