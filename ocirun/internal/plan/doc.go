// Package plan turns a runtime-spec into the ordered list of operations that make a
// container: what will be done, in words, before anything is done.
//
// Compile is pure: it reads the spec and the facts given in Host and touches neither
// files nor processes, so that a plan can be printed (`ocirun create --dry-run`) and
// kept as a golden file. Package lower turns the operations into system calls; package
// parent opens what they need and runs them. The child names a failure by the index of
// its operation, so the text of an operation is also the text of its errors.
//
// The order is that of the runtime-spec and of security: join namespaces; hostname;
// mounts in the order of the spec; devices; hooks; masked and read-only paths; sysctls;
// pivot_root; and then working directory → limits → ids → capabilities →
// no_new_privs → seccomp → execve.
//
// Start reading at compile.go; the operations are in ops.go.
package plan
