// Package child is the process that becomes the container's: a small machine that
// interprets a prepared program of system calls, without a Go runtime under it.
//
// The parent writes a Program with a Builder and calls Start. The clone(2) gives a
// process with one thread and a copy of the parent's memory, in which no goroutine may
// be scheduled, nothing may be allocated and no stack may grow; it may therefore do
// what a Go program cannot: setns(2) into a user namespace. It runs main, a loop over
// instructions (a system call with arguments from registers, a load, a jump), and
// tells the parent over the ladder which instruction failed with which errno.
//
// At its end it executes the tail: a nameless, sealed, static ELF file of two pages,
// built by the parent (Tail), whose few machine instructions make the last, straight
// row of system calls (limits, ids, capabilities, seccomp), wait for the start and
// execute the user's program. That has three uses:
//   - the host's binary is never what /proc/PID/exe of a process inside the container
//     names once it may be looked at: CVE-2019-5736 finds a sealed file of two pages;
//   - a created container waits in 20 KB of memory rather than in a copy of ours;
//   - nothing of the parent's memory or descriptors is there any more.
//
// Until then the child is not dumpable, so that nothing without CAP_SYS_PTRACE over
// the host can reach it through /proc or ptrace(2).
//
// What the tail cannot do (hooks, handing over a listener, LSM labels, which apply to
// the next execve only) the machine does itself and executes the user's program
// directly. The parent then runs from a read-only mount of its binary (package selfexe).
//
// The package owns the machine and refuses to know what programs mean: package lower
// writes them. Start reading at main.go.
package child
