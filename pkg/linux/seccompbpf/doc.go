// Package seccompbpf compiles the seccomp section of an OCI spec to a classic BPF
// program, without libseccomp.
//
// A program tests the architecture once and then finds the system call by binary
// search over ranges of numbers: docker's default profile becomes about 350
// instructions a architecture, against 958 of libseccomp's flat list, and loads ten
// times faster, because the kernel emulates the filter once for each number when it
// builds its bitmap of calls that are always allowed.
//
// The package owns the meaning of a profile (which it takes from libseccomp and
// runc where the runtime-spec is silent) and the table of system call numbers. It
// refuses to know processes, files and caches; loading is the caller's.
//
// Meaning, where the spec leaves it open:
//   - a rule without argument conditions hides all other rules of its call; of two
//     such rules the first one counts. Otherwise rules are tried in their order.
//   - conditions of one rule are joined by "and", unless two of them test the same
//     argument: then each is a rule of its own (as runc does).
//   - names that no architecture knows are ignored.
//   - calls with a number above the highest that the profile names return ENOSYS if
//     the default action would deny them, so that libraries fall back to older calls.
//   - a call of an architecture that the profile does not list kills the thread.
//   - architectures that cannot run on this kernel's are left out.
//
// Start reading at Compile. Sources: seccomp(2), Linux include/uapi/linux/seccomp.h,
// runtime-spec v1.3 config-linux.md#seccomp.
package seccompbpf
